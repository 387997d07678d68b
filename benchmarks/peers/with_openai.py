"""AsyncOpenAI, a semaphore, each answer appended to a file. `variant` "aiohttp": its aiohttp transport."""

import asyncio
import json
import sys

from openai import AsyncOpenAI, DefaultAioHttpClient

task = json.loads(sys.argv[1])


async def main() -> None:
    with open(task["prompts"]) as file:  # noqa: ASYNC230, PTH123 - before the first request
        rows = [json.loads(line) for line in file]
    transport = DefaultAioHttpClient() if task["variant"] == "aiohttp" else None
    client = AsyncOpenAI(base_url=task["url"], api_key=task["key"], http_client=transport)
    slots = asyncio.Semaphore(task["in_flight"])
    with open(task["out"], "w") as out:  # noqa: ASYNC230, PTH123 - one short write an answer

        async def ask(row: dict[str, str]) -> None:
            async with slots:
                reply = await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": row["prompt"]}]
                )
            out.write(json.dumps(row | {"response": reply.choices[0].message.content}) + "\n")

        await asyncio.gather(*map(ask, rows))


asyncio.run(main())
