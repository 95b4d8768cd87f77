"""A Hub for tests: enough of its protocol to push a folder (small files inline, weights by LFS) and load it back."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(\w[\w-]*))?(?:/([^/]+))?(?:/(.*))?")
RESOLVE = re.compile(r"/(?:datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


class HubState:
    """Repositories as branch to commit to files; blobs by their SHA-256."""

    def __init__(self) -> None:
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, Files] = {}
        self.blobs: Files = {}
        self.private: set[str] = set()

    def commit(self, repo: str, branch: str, files: Files) -> str:
        content = json.dumps([repo, branch, {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}])
        commit = hashlib.sha1(f"{content}{len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = files
        self.branches[repo][branch] = commit
        return commit

    def find(self, repo: str, revision: str) -> str | None:
        revision = unquote(revision)
        branches = self.branches.get(repo, {})
        return branches.get(revision, revision if revision in branches.values() else None)


class Handler(BaseHTTPRequestHandler):
    state: HubState
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def reply(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.reply(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if match := RESOLVE.fullmatch(path):
            return self.resolve(*match.groups())
        match = API.fullmatch(path)
        if not match or match[2] not in self.state.branches:
            return self.missing("RepoNotFound")
        _, repo, what, revision, _ = match.groups()
        commit = self.state.find(repo, revision or "main")
        if commit is None:
            return self.missing("RevisionNotFound")
        files = self.state.commits[commit]
        if what == "tree":
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return self.reply(200, entries)
        siblings = [{"rfilename": name} for name in files]
        return self.reply(200, {"id": repo, "sha": commit, "siblings": siblings, "private": repo in self.state.private})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self.state.find(repo, revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        data = self.state.commits[commit].get(unquote(name))
        if data is None:
            return self.missing("EntryNotFound")
        etag = hashlib.sha256(data).hexdigest()
        return self.reply(200, data, {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-Linked-Size": str(len(data))})

    def do_PUT(self) -> None:
        data = self.body()
        self.state.blobs[hashlib.sha256(data).hexdigest()] = data
        self.reply(200)

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path, self.body()
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":
            content = json.loads(data)["content"]
            return (
                self.reply(200, {}) if content.startswith("---\n") else self.reply(400, {"errors": [{"message": "no"}]})
            )
        if path.endswith(".git/info/lfs/objects/batch"):
            href = f"http://{self.headers['Host']}/upload"
            objects = [entry | {"actions": {"upload": {"href": href}}} for entry in json.loads(data)["objects"]]
            return self.reply(200, {"transfer": "basic", "objects": objects})
        match = API.fullmatch(path)
        if not match or match[2] not in self.state.branches:
            return self.missing("RepoNotFound")
        _, repo, what, revision, _ = match.groups()
        if what == "preupload":
            modes = [
                {"path": entry["path"], "uploadMode": self.mode(entry["path"]), "shouldIgnore": False}
                for entry in json.loads(data)["files"]
            ]
            return self.reply(200, {"files": modes})
        if what == "branch":
            return self.branch(repo, unquote(revision))
        return self.change(repo, unquote(revision), [json.loads(line) for line in data.splitlines()])

    @staticmethod
    def mode(path: str) -> str:
        return "lfs" if path.endswith((".safetensors", ".parquet")) else "regular"

    def create(self, wanted: dict[str, Any]) -> None:
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if repo in self.state.branches:
            return self.reply(409, {"error": "exists", "url": f"http://{self.headers['Host']}/{repo}"})
        self.state.branches[repo] = {}
        self.state.commit(repo, "main", {".gitattributes": b"*.safetensors filter=lfs"})
        if wanted.get("visibility") == "private" or wanted.get("private"):
            self.state.private.add(repo)
        return self.reply(200, {"url": f"http://{self.headers['Host']}/{repo}"})

    def branch(self, repo: str, name: str) -> None:
        if name in self.state.branches[repo]:
            return self.reply(409, {"error": "exists"})
        self.state.branches[repo][name] = self.state.branches[repo]["main"]
        return self.reply(200, {})

    def change(self, repo: str, branch: str, operations: list[dict[str, Any]]) -> None:
        files = dict(self.state.commits[self.state.branches[repo][branch]])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.state.commit(repo, branch, files)
        url = f"http://{self.headers['Host']}/{repo}/commit/{commit}"
        return self.reply(200, {"success": True, "commitOid": commit, "commitUrl": url})


@contextmanager
def running_hub() -> Iterator[tuple[str, HubState]]:
    """Address for `HF_ENDPOINT` of a Hub that is empty at first, and what it holds."""
    state = HubState()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"state": state}))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
