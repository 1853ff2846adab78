"""A hub on loopback with the routes that huggingface_hub asks: model info, and files by HEAD and by GET with ranges."""

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as folders; `asked` has (method, path, range) of every request.

    cut     bytes after which the answer to the next longer file breaks off; None: never
    dies    whether nothing is answered after that
    silent  whether nothing is answered
    """

    def __init__(self, repos, licence="apache-2.0"):
        self.repos, self.licence, self.asked = repos, licence, []
        self.cut, self.dies, self.silent = None, False, False

    def info(self, repo):
        """What /api/models/<repo> answers."""
        root = self.repos[repo]
        files = sorted(p for p in root.rglob("*") if p.is_file())
        sizes = {p.relative_to(root).as_posix(): p.stat().st_size for p in files}
        siblings = [{"rfilename": name, "size": size, "blobId": "0"} for name, size in sizes.items()]
        card = {"license": self.licence} if self.licence else None
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "cardData": card, "tags": [],
                "private": False, "downloads": 0, "likes": 0, "disabled": False, "gated": False}  # fmt: skip


@contextlib.contextmanager
def serving(hub):
    """The hub's address while it answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def answer(self, body):
            if hub.silent:
                self.close_connection = True
                return None
            path, span = self.path.partition("?")[0], self.headers.get("Range")
            hub.asked.append((self.command, path, span))
            if path.startswith("/api/models/"):
                repo = path.removeprefix("/api/models/")
                if repo not in hub.repos:
                    return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
                return self.send(200, json.dumps(hub.info(repo)).encode(), {"Content-Type": "application/json"}, body)
            repo, _, name = path.lstrip("/").partition("/resolve/")
            if repo not in hub.repos:
                return self.send(404, b"", {}, body)
            file = hub.repos[repo] / name.partition("/")[2]
            data = Path(file).read_bytes()
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            start = int(span.removeprefix("bytes=").partition("-")[0]) if span else 0
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(206 if start else 200, data[start:], headers, body)

        def send(self, code, data, headers, body):
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if not body:
                return
            if hub.cut is not None and "ETag" in headers and len(data) > hub.cut:
                data, self.close_connection = data[: hub.cut], True
                hub.cut, hub.silent = None, hub.dies
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
