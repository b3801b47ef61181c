"""A small server with the part of the Hub's API that uploads a folder, on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What was uploaded.

    Attributes:
        url: Value of ``HF_ENDPOINT``.
        commits: Of each commit the summary and the files: name -> content.
        gitignores: The file that the client sent along for the server to apply, of each upload.
        fails: Commits are refused.
    """

    url: str = ""
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    gitignores: list[str | None] = field(default_factory=list)
    fails: bool = False


@contextmanager
def hub() -> Iterator[Hub]:
    """Serves one repository, me/best, while the context is open."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"id": "me/best", "sha": "0" * 40, "siblings": [], "tags": [], "name": "me"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/repos/create":
                self._answer({"url": f"{state.url}/me/best", "name": "me/best", "id": "me/best"})
            elif "/preupload/" in self.path:
                asked = json.loads(body)
                state.gitignores.append(asked.get("gitIgnore"))
                files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked["files"]]
                self._answer({"files": files})
            elif "/commit/" in self.path and not state.fails:
                lines = [json.loads(line) for line in body.decode().splitlines()]
                files = {
                    x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"
                }
                state.commits.append((lines[0]["value"]["summary"], files))
                self._answer({"commitUrl": f"{state.url}/me/best/commit/1", "commitOid": "1" * 40})
            elif "validate-yaml" in self.path:
                self._answer({"errors": [], "warnings": []})
            else:
                self._answer({"error": "refused"}, 403)

        def _answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
