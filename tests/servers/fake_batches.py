"""A server on loopback that speaks OpenAI's Files and Batches API, for tests.

    python fake_batches.py --port 0        the first line printed is http://127.0.0.1:PORT/v1

    POST /v1/files                  multipart: file and purpose        GET /v1/files/ID/content
    POST /v1/batches                GET /v1/batches?limit=&after=
    GET  /v1/batches/ID             POST /v1/batches/ID/cancel
    POST /__config                  JSON of options; those not named are the defaults again; what happened stays
    GET  /__stats                   see `stats`

A batch takes one step with every look at it: validating, in_progress, finalizing, then its `outcome`. Its rows are
executed as it goes to finalizing, each counted by its custom_id. The answers depend on nothing but the messages.

Options: stay          the state beyond which no batch goes (until it is set anew)
         outcomes      how the batches end, in the order of their creation (the last one for all others): completed,
                       expired, cancelled (with the first half of the rows done), or failed (refused as a whole)
         errors        {a text: a status}: rows whose prompt holds the text fail with it; -1: a row without a response
         pause         {a step: seconds}: upload_before, upload_after, create_before, create_after, content; the step's
                       work is done before the pause, or after it; `content` has sent half of the file by then
         fail          {a step: a status}: upload, create, retrieve or content answer with it; create_after: the batch
                       is made all the same
         api_key       any other bearer gets a 401
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from typing import Any

from aiohttp import web

STEPS = ["validating", "in_progress", "finalizing"]


class Provider:
    """What it was sent, what it has made of it, and how it is told to behave."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.reached: Counter[str] = Counter()  # pauses that were begun
        self.executed: Counter[str] = Counter()  # custom_ids
        self.looks = self.requests = 0

    # -- files -----------------------------------------------------------------------------------------------------

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file, purpose = form["file"], form["purpose"]
        assert isinstance(file, web.FileField) and purpose == "batch", "a batch's input is a file for that purpose"
        data = file.file.read()
        await self.pause("upload_before")
        id = self.keep(data, file.filename)
        await self.pause("upload_after")
        return web.json_response({"id": id, "object": "file", "bytes": len(data), "created_at": 0,
                                  "filename": file.filename, "purpose": "batch", "status": "processed"})  # fmt: skip

    def keep(self, data: bytes, name: str) -> str:
        id = f"file-{len(self.files)}"
        self.files[id], self.names[id] = data, name
        return id

    async def content(self, request: web.Request) -> web.StreamResponse:
        data = self.files[request.match_info["id"]]
        reply = web.StreamResponse()
        reply.content_length = len(data)
        await reply.prepare(request)
        await reply.write(data[: len(data) // 2])
        await self.pause("content")
        await reply.write(data[len(data) // 2 :])
        return reply

    # -- batches ---------------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        await self.pause("create_before")
        id = f"batch_{len(self.batches)}"
        rows = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        self.batches[id] = {
            "id": id, "object": "batch", "created_at": len(self.batches), "status": "validating",
            "completion_window": asked["completion_window"], "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"], "metadata": asked.get("metadata"),
            "request_counts": {"total": len(rows), "completed": 0, "failed": 0},
        }  # fmt: skip
        await self.pause("create_after")
        if status := self.options.get("fail", {}).get("create_after"):
            return failure(status)
        return web.json_response(self.batches[id])

    async def look(self, request: web.Request) -> web.Response:
        self.looks += 1
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return failure(404)
        self.step(batch)
        return web.json_response(batch)

    async def list(self, request: web.Request) -> web.Response:
        newest = list(reversed(self.batches.values()))
        after, limit = request.query.get("after"), int(request.query.get("limit", 20))
        start = 1 + [b["id"] for b in newest].index(after) if after else 0
        page = newest[start : start + limit]
        return web.json_response({"object": "list", "data": page, "has_more": start + limit < len(newest),
                                  "first_id": None, "last_id": None})  # fmt: skip

    async def cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch["status"] in STEPS:
            self.end(batch, "cancelled")
        return web.json_response(batch)

    def step(self, batch: dict[str, Any]) -> None:
        status = batch["status"]
        if status not in STEPS or status == self.options.get("stay"):
            return
        outcomes = self.options.get("outcomes") or ["completed"]
        outcome = outcomes[min(batch["created_at"], len(outcomes) - 1)]
        if status == "finalizing" or outcome == "failed":
            self.end(batch, outcome)
        else:
            batch["status"] = STEPS[STEPS.index(status) + 1]

    def end(self, batch: dict[str, Any], outcome: str) -> None:
        batch["status"] = outcome
        if outcome == "failed":
            error = {"code": "invalid_json_line", "line": 2, "message": "This line is not parseable as valid JSON."}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        whole = len(rows) if outcome == "completed" else len(rows) // 2
        done = [self.execute(row) for row in rows[:whole]]
        words = {"code": f"batch_{outcome}", "message": "This request could not be executed in time."}
        left = [{"custom_id": row["custom_id"], "response": None, "error": words} for row in rows[whole:]]
        good = [row for row in done if row["response"] and row["response"]["status_code"] == 200]
        bad = [row for row in done if row not in good] + left
        for name, found in (("output_file_id", good), ("error_file_id", bad)):
            if found:  # the order of the rows is not that of the requests
                lines = (json.dumps(row, ensure_ascii=False).encode() for row in reversed(found))
                batch[name] = self.keep(b"\n".join(lines) + b"\n", name)
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}

    def execute(self, row: dict[str, Any]) -> dict[str, Any]:
        self.executed[row["custom_id"]] += 1
        text = row["body"]["messages"][-1]["content"]
        for mark, status in self.options.get("errors", {}).items():
            if mark not in text:
                continue
            if status == -1:
                error = {"code": "internal", "message": "The row was lost."}
                return {"id": "x", "custom_id": row["custom_id"], "response": None, "error": error}
            words = {"message": f"injected {status}", "type": "error", "code": None}
            return {"id": "x", "custom_id": row["custom_id"], "error": None,
                    "response": {"status_code": status, "request_id": "r", "body": {"error": words}}}  # fmt: skip
        # A line separator inside: a reader that cuts lines as Unicode does would break the row.
        message = {"role": "assistant", "content": f"Answer to: {text}\u2028(the end)"}
        usage = {"prompt_tokens": len(text), "completion_tokens": 7, "total_tokens": len(text) + 7}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": row["body"]["model"],
                "choices": [choice], "usage": usage}  # fmt: skip
        return {"id": "x", "custom_id": row["custom_id"], "error": None,
                "response": {"status_code": 200, "request_id": "r", "body": body}}  # fmt: skip

    # -- for the test ----------------------------------------------------------------------------------------------

    async def configure(self, request: web.Request) -> web.Response:
        self.options = await request.json()
        return web.json_response({})

    async def stats(self, request: web.Request) -> web.Response:
        """`executed`: how often each custom_id was; `reached`: how often each pause was begun; all that the API got."""
        inputs = {id: self.files[id].decode() for id, name in self.names.items() if name.endswith(".jsonl")}
        found = {"batches": list(self.batches.values()), "inputs": inputs, "executed": self.executed,
                 "reached": self.reached, "looks": self.looks, "requests": self.requests}  # fmt: skip
        return web.json_response(found)

    async def pause(self, step: str) -> None:
        seconds = self.options.get("pause", {}).get(step)
        if seconds:
            self.reached[step] += 1
            await asyncio.sleep(seconds)


def failure(status: int) -> web.Response:
    return web.json_response({"error": {"message": f"injected {status}", "type": "error", "code": None}}, status=status)


@web.middleware
async def guarded(request: web.Request, handler: Any) -> web.StreamResponse:
    """A wrong key, and the steps that are told to fail."""
    provider: Provider = request.app[PROVIDER]
    if request.path.startswith("/v1"):
        provider.requests += 1
        key = provider.options.get("api_key")
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            return failure(401)
        step = {"upload": "upload", "create": "create", "look": "retrieve", "content": "content"}.get(handler.__name__)
        if status := provider.options.get("fail", {}).get(step):
            return failure(status)
    reply: web.StreamResponse = await handler(request)
    return reply


PROVIDER = web.AppKey("provider", Provider)


async def main(port: int) -> None:
    provider = Provider()
    app = web.Application(middlewares=[guarded], client_max_size=1 << 30)
    app[PROVIDER] = provider
    app.add_routes([
        web.post("/v1/files", provider.upload),
        web.get("/v1/files/{id}/content", provider.content),
        web.post("/v1/batches", provider.create),
        web.get("/v1/batches", provider.list),
        web.get("/v1/batches/{id}", provider.look),
        web.post("/v1/batches/{id}/cancel", provider.cancel),
        web.post("/__config", provider.configure),
        web.get("/__stats", provider.stats),
    ])  # fmt: skip
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(main(parser.parse_args().port))
