"""A stand-in for W&B's server: enough of it that runs start and send their epochs, and that it can die meanwhile."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VIEWER = {"id": "u", "entity": "us", "username": "us", "email": "", "flags": "{}", "teams": {"edges": []}}
BUCKET = {"id": "r", "name": "r", "displayName": "r", "description": "", "config": "{}", "sweepName": None}
PROJECT = {"id": "p", "name": "dno-search", "entity": {"id": "e", "name": "us"}}


class Server(ThreadingHTTPServer):
    """Listens on a free port of this machine until `die`."""

    daemon_threads = True

    def __init__(self, summary: dict[str, object] | None = None) -> None:
        """`summary`: that of the run which the server knows already, with one row."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.summary = summary
        self.streamed: list[str] = []  # what the runs sent of themselves
        self.has_streamed = threading.Event()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: socket.socket, address: object) -> None:
        self._ends.append(request)
        super().process_request(request, address)

    def handle_error(self, request: object, address: object) -> None:
        """A client that went away is no news."""

    def die(self) -> None:
        """Answers nothing any more, on old connections or new ones."""
        self.shutdown()
        self.server_close()
        for end in self._ends:
            end.close()


class Handler(BaseHTTPRequestHandler):
    """Answers every request of a run."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        if "file_stream" in self.path:
            self.server.streamed.append(content)
            self.server.has_streamed.set()
            self._answer({"exitcode": None, "limits": {}})
            return
        query = content
        asked = json.loads(content)["variables"] if "upsertBucket" in query else {}
        data: dict[str, object] = {"viewer": VIEWER, "serverInfo": {"cliVersionInfo": {}}}
        if "upsertBucket" in query:
            bucket = BUCKET | {"name": asked.get("name") or "r", "project": PROJECT, "historyLineCount": 0}
            data["upsertBucket"] = {"bucket": bucket, "inserted": True}
        if "RunResumeStatus" in query and self.server.summary is not None:
            last = {"_step": 0, "_runtime": 1}
            known = {"summaryMetrics": json.dumps(self.server.summary | last), "historyLineCount": 1}
            known |= {"historyTail": json.dumps([json.dumps(last)]), "eventsTail": "[]", "tags": []}
            known |= {"logLineCount": 0, "eventsLineCount": 0, "wandbConfig": json.dumps({"t": 1})}
            data["model"] = PROJECT | {"bucket": BUCKET | known}
        if "createRunFiles" in query:
            data["createRunFiles"] = {"runID": "r", "uploadHeaders": [], "files": []}
        self._answer({"data": data})

    do_GET = do_PUT = do_POST

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""
