"""A fake job server with the few responses that Ray's client needs."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeJobs:
    """State of the server: `jobs` by id, uploaded `packages`, and the required `token`."""

    def __init__(self, token=None):
        self.token = token
        self.jobs = {}
        self.packages = {}
        self.refuse = None  # status and text of the answer to a new job

    def end(self, job_id, status="SUCCEEDED", exit_code=0):
        self.jobs[job_id] |= {"status": status, "driver_exit_code": exit_code, "end_time": 2000}

    def submitted(self, request):
        job_id = request["submission_id"]
        if self.refuse:
            return self.refuse
        if job_id in self.jobs:
            return 500, f"Job with submission_id {job_id} already exists."
        known = {key: request[key] for key in ("submission_id", "entrypoint", "metadata", "runtime_env")}
        self.jobs[job_id] = {"type": "SUBMISSION", "status": "RUNNING", "start_time": 1000 + len(self.jobs), **known}
        return 200, {"submission_id": job_id, "job_id": job_id}


@contextmanager
def job_server(token=None):
    """The URL of a fake job server on this machine, and its state."""
    fake = FakeJobs(token)

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, content):
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def asked(self):
            """The path without its prefix; None if the token is wrong."""
            shown = self.headers.get("Authorization")
            if fake.token and shown is None:
                return self.answer(401, "Unauthorized: Missing authentication token")
            if fake.token and shown != f"Bearer {fake.token}":
                return self.answer(403, "Forbidden: Invalid authentication token")
            return self.path.removeprefix("/api/").rstrip("/")

        def do_GET(self):
            path = self.asked()
            if path == "version":
                self.answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "none"})
            elif path == "jobs":
                self.answer(200, list(fake.jobs.values()))
            elif path and path.startswith("packages"):
                self.answer(200 if path in fake.packages else 404, {})
            elif path:
                self.answer(200, fake.jobs[path.removeprefix("jobs/")])

        def do_PUT(self):
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if path := self.asked():
                fake.packages[path] = data
                self.answer(200, {})

        def do_POST(self):
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.asked()
            if path == "jobs":
                self.answer(*fake.submitted(json.loads(data)))
            elif path:
                job = fake.jobs[path.removeprefix("jobs/").removesuffix("/stop")]
                running = job["status"] == "RUNNING"
                job["status"] = "STOPPED" if running else job["status"]
                self.answer(200, {"stopped": running})

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fake
    finally:
        server.shutdown()
        server.server_close()
