"""The floor: a pool of workers on one aiohttp session, each answer appended to a file.

No peer script imports anything of kdaug; each takes one argument, a task as JSON (see ../clients.py).
"""

import asyncio
import sys

import aiohttp
import orjson

task = orjson.loads(sys.argv[1])


async def main() -> None:
    with open(task["prompts"], "rb") as file:  # noqa: ASYNC230, PTH123 - before the first request; pathlib costs 10 ms
        rows = map(orjson.loads, file.readlines())
    url, headers = f"{task['url']}/chat/completions", {"Content-Type": "application/json"}
    with open(task["out"], "wb") as out:  # noqa: ASYNC230, PTH123 - a floor blocks where it is cheapest
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def worker() -> None:
                for row in rows:
                    body = {"model": "m", "messages": [{"role": "user", "content": row["prompt"]}]}
                    async with session.post(url, data=orjson.dumps(body), headers=headers) as reply:
                        found = orjson.loads(await reply.read())
                    row["response"] = found["choices"][0]["message"]["content"]
                    out.write(orjson.dumps(row) + b"\n")

            await asyncio.gather(*(worker() for _ in range(task["in_flight"])))


asyncio.run(main())
