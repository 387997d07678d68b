"""A small Hugging Face Hub in memory, for round trips with the real clients: datasets and models, on loopback only.

    with FakeHub() as hub:
        subprocess.run([sys.executable, "-c", ...], env={**os.environ, **hub.env(tmp_path)})

The clients read `HF_*` at import, so they run in a process of their own. {repo} is owner/name, {rev} a branch or a sha.

    GET   /api/whoami-v2                                401 unless the bearer is the token
    POST  /api/repos/create                             409 if it exists, 403 for another owner's
    POST  /api/validate-yaml                            a card's head: must parse and be a mapping
    GET   /api/datasets/{repo}[/revision/{rev}]         sha, siblings
    POST  /api/datasets/{repo}/branch/{name}
    GET   /api/datasets/{repo}/tree/{rev}[/{path}]      ?recursive; pages by Link: rel="next"
    POST  /api/datasets/{repo}/preupload/{rev}          "regular" or "lfs" for each file
    POST  /datasets/{repo}.git/info/lfs/objects/batch   transfer "basic": an address to upload to
    PUT   /_lfs/{oid}                                   the bytes (the client sends no token here)
    POST  /api/datasets/{repo}/commit/{rev}             JSON lines: header, file, lfsFile, deletedFile, deletedFolder
    GET   /datasets/{repo}/resolve/{rev}/{path}         HEAD too; X-Repo-Commit, ETag, Range

Models have the same under /api/models/{repo} and /{repo}.

Not here: Xet, multipart uploads, pull requests, tags, a redirect to a CDN, the dataset viewer.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import yaml
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LFS_SUFFIXES = (".parquet", ".arrow", ".safetensors", ".bin", ".gz", ".zip")
LFS_OVER = 5 << 20  # bytes


@dataclass(frozen=True)
class Blob:
    """A file's bytes, as git or as its large-file storage has them."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def in_git(self) -> bytes:
        if not self.lfs:
            return self.data
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return pointer.encode()

    @property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.in_git) + self.in_git).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.data), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.in_git)}
        return entry


@dataclass
class Repo:
    private: bool
    kind: str = "dataset"
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)  # sha -> path -> file
    branches: dict[str, str] = field(default_factory=dict)  # name -> sha

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {id(self)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        return sha


class Refusal(Exception):
    """An error as the Hub sends it: the client chooses its exception by X-Error-Code."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        told = {"X-Error-Code": code, "X-Error-Message": message, **headers}
        self.response = web.json_response({"error": message}, status=status, headers=told)


class FakeHub:
    """A server in a thread of its own, for as long as the `with` lasts.

    `faults`: (method, part of the path, status); the first request that fits one gets that status and uses it up.
    `between`: called once, just before the next commit is looked at, as somebody else's push would come in between.
    `log`: (method, path, status) of every request.
    """

    user = "me"
    token = "hf_test"

    def __init__(self, page_size: int = 1000) -> None:
        self.page_size = page_size
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.faults: list[tuple[str, str, int]] = []
        self.between: Callable[[], object] | None = None
        self.log: list[tuple[str, str, int]] = []

    def env(self, home: Path) -> dict[str, str]:
        """What a process needs to take this for the Hub; `home` is its cache."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch holds now."""
        found = self.repos[repo]
        return {path: blob.data for path, blob in found.commits[found.branches[branch]].items()}

    def __enter__(self) -> FakeHub:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._runner = web.AppRunner(self._app(), access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._around], client_max_size=1 << 30)
        app.add_routes(
            [
                web.get("/api/whoami-v2", self._whoami),
                web.post("/api/repos/create", self._create),
                web.post("/api/validate-yaml", self._validate),
                web.put("/_lfs/{oid}", self._lfs_put),
            ]
        )
        for at, api in (("/datasets/", "/api/datasets/"), ("/", "/api/models/")):
            app.add_routes(self._routes(at + "{owner}/{name}", api + "{owner}/{name}"))
        return app

    def _routes(self, at: str, api: str) -> list[web.RouteDef]:
        """Of one kind of repository."""
        return [
            web.get(api, self._info),
            web.get(api + "/revision/{rev}", self._info),
            web.post(api + "/branch/{branch}", self._branch),
            web.get(api + "/tree/{rev}", self._tree),
            web.get(api + "/tree/{rev}/{path:.*}", self._tree),
            web.post(api + "/preupload/{rev}", self._preupload),
            web.post(api + "/commit/{rev}", self._commit),
            web.post(at + ".git/info/lfs/objects/batch", self._lfs_batch),
            web.get(at + "/resolve/{rev}/{path:.+}", self._resolve),
        ]

    @web.middleware
    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Faults first, refusals as the Hub words them, and a line in the log."""
        try:
            for fault in self.faults:
                method, part, status = fault
                if method == request.method and part in request.path:
                    self.faults.remove(fault)
                    raise Refusal(status, "", "a fault of the test")
            response = await handler(request)
        except Refusal as e:
            response = e.response
        except web.HTTPException as e:
            response = web.json_response({"error": f"no route: {request.method} {request.path}"}, status=e.status)
        self.log.append((request.method, request.path, response.status))
        return response

    def _signed(self, request: web.Request, must: bool = True) -> bool:
        signed = request.headers.get("Authorization") == f"Bearer {self.token}"
        if must and not signed:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return signed

    def _find(self, request: web.Request, rev: str = "main", write: bool = False) -> tuple[Repo, str, dict[str, Blob]]:
        signed, match = self._signed(request, write), request.match_info
        repo = self.repos.get(f"{match['owner']}/{match['name']}")
        kind = "dataset" if request.path.startswith(("/datasets/", "/api/datasets/")) else "model"
        if repo is None or repo.kind != kind or (repo.private and not signed):
            raise Refusal(404 if signed else 401, "RepoNotFound", "Repository not found")
        sha = repo.branches.get(rev) or (rev if rev in repo.commits else None)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return repo, sha, repo.commits[sha]

    async def _whoami(self, request: web.Request) -> web.Response:
        self._signed(request)
        token = {"accessToken": {"displayName": "test", "role": "write"}}
        return web.json_response({"type": "user", "name": self.user, "fullname": self.user, "orgs": [], "auth": token})

    async def _create(self, request: web.Request) -> web.Response:
        self._signed(request)
        body = await request.json()
        owner = body.get("organization") or self.user
        kind = body.get("type", "model")
        if owner != self.user:
            raise Refusal(403, "", f"You don't have the rights to create a {kind} under the namespace {owner}")
        name = f"{owner}/{body['name']}"
        new = name not in self.repos
        if new:
            repo = self.repos[name] = Repo(body.get("visibility") == "private", kind)
            repo.commit("main", {".gitattributes": Blob(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n")})
        return web.json_response({"url": f"{self.url}{_web(kind)}/{name}", "name": name}, status=200 if new else 409)

    async def _validate(self, request: web.Request) -> web.Response:
        content = (await request.json())["content"]
        head = re.match(r"---\s*\n(.*?)\n?---\s*(\n|$)", content, re.DOTALL)
        wrong = None
        try:
            if head and not isinstance(yaml.safe_load(head[1]), dict | None):
                wrong = "metadata should be a mapping"
        except yaml.YAMLError as e:
            wrong = str(e)
        warnings = [] if head else [{"message": "empty or missing yaml metadata in repo card"}]
        errors = [{"message": wrong}] if wrong else []
        return web.json_response({"errors": errors, "warnings": warnings}, status=400 if wrong else 200)

    async def _info(self, request: web.Request) -> web.Response:
        match = request.match_info
        repo, sha, files = self._find(request, match.get("rev", "main"))
        siblings = [{"rfilename": path} for path in sorted(files)]
        name = f"{match['owner']}/{match['name']}"
        return web.json_response({"id": name, "sha": sha, "private": repo.private, "siblings": siblings})

    async def _branch(self, request: web.Request) -> web.Response:
        start = (await request.json()).get("startingPoint", "main")
        repo, sha, _ = self._find(request, start, write=True)
        if request.match_info["branch"] in repo.branches:
            raise Refusal(409, "", "Reference already exists")
        repo.branches[request.match_info["branch"]] = sha
        return web.json_response({})

    async def _tree(self, request: web.Request) -> web.Response:
        _, _, files = self._find(request, request.match_info["rev"])
        top = request.match_info.get("path", "").strip("/")
        prefix = top + "/" if top else ""
        found: dict[str, dict] = {}
        for path, blob in files.items():
            if path.startswith(prefix):
                found[path] = blob.entry(path)
                for folder in Path(path[len(prefix) :]).parents:
                    if folder.name:
                        at = prefix + folder.as_posix()
                        found[at] = {"type": "directory", "path": at, "size": 0, "oid": "0" * 40}
        if top and not found:
            raise Refusal(404, "EntryNotFound", f"{top} does not exist")
        if request.query.get("recursive", "").lower() != "true":
            found = {path: entry for path, entry in found.items() if "/" not in path[len(prefix) :]}
        entries, start = [found[path] for path in sorted(found)], int(request.query.get("cursor", 0))
        end = start + self.page_size
        more = f'<{self.url}{request.rel_url.update_query(cursor=end)}>; rel="next"'
        return web.json_response(entries[start:end], headers={"Link": more} if end < len(entries) else {})

    async def _preupload(self, request: web.Request) -> web.Response:
        _, _, files = self._find(request, request.match_info["rev"], write=True)
        answers = []
        for file in (await request.json())["files"]:
            path = file["path"]
            binary = b"\0" in base64.b64decode(file["sample"])
            lfs = path.endswith(LFS_SUFFIXES) or file["size"] > LFS_OVER or binary
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if path in files:  # the client leaves out what has not changed
                answer["oid"] = files[path].etag
            answers.append(answer)
        return web.json_response({"files": answers})

    async def _lfs_batch(self, request: web.Request) -> web.Response:
        self._find(request, write=True)
        objects = []
        for wanted in (await request.json())["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.uploads:  # without actions: it is here already
                entry["actions"] = {"upload": {"href": f"{self.url}/_lfs/{wanted['oid']}"}}
            objects.append(entry)
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _lfs_put(self, request: web.Request) -> web.Response:
        data, oid = await request.read(), request.match_info["oid"]
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refusal(400, "", "the bytes do not match the oid")
        self.uploads[oid] = data
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        branch, match = request.match_info["rev"], request.match_info
        lines = [json.loads(line) for line in (await request.read()).splitlines()]
        if self.between is not None:
            self.between, before = None, self.between
            before()
        repo, sha, files = self._find(request, branch, write=True)
        if "create_pr" in request.query or branch not in repo.branches:
            raise Refusal(400, "", "only commits onto a branch are supported")
        files = dict(files)
        for line in lines:
            if line["key"] == "header" and line["value"].get("parentCommit", sha) != sha:
                raise Refusal(412, "", "A commit has happened since. Please refresh and try again.")
            self._apply(files, line["key"], line["value"])
        sha = repo.commit(branch, files)
        url = f"{self.url}{_web(repo.kind)}/{match['owner']}/{match['name']}/commit/{sha}"
        return web.json_response({"success": True, "commitOid": sha, "commitUrl": url})

    def _apply(self, files: dict[str, Blob], key: str, value: dict) -> None:
        if key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.uploads:
                raise Refusal(400, "", f"LFS object {value['oid']} was not uploaded")
            files[value["path"]] = Blob(self.uploads[value["oid"]], lfs=True)
        elif key == "deletedFile":
            files.pop(value["path"], None)
        elif key == "deletedFolder":
            for path in [p for p in files if p.startswith(value["path"].rstrip("/") + "/")]:
                del files[path]

    async def _resolve(self, request: web.Request) -> web.Response:
        _, sha, files = self._find(request, request.match_info["rev"])
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        blob = files.get(request.match_info["path"])
        if blob is None:  # with X-Repo-Commit: the client remembers what is absent, too
            raise Refusal(404, "EntryNotFound", "Entry not found", **headers)
        headers["ETag"], data, status = f'"{blob.etag}"', blob.data, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            if start >= len(data):
                raise Refusal(416, "", "Range not satisfiable", **{"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        return web.Response(body=data, status=status, headers=headers)


def _web(kind: str) -> str:
    """Where the Hub shows repositories of a kind."""
    return "/datasets" if kind == "dataset" else ""
