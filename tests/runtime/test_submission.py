"""The job server client: one job per run, the submitted request, and one-line errors."""

import socket
import time
import zipfile
from io import BytesIO

import pytest
from job_server import job_server
from small_processes import free_port

from reid_ray.errors import RunError
from reid_ray.runtime import submission
from reid_ray.runtime.submission import Job, JobServer, Request, _Log, token_header
from reid_ray.runtime.working_dir import WorkingDir


@pytest.fixture(autouse=True)
def _no_address(monkeypatch, tmp_path):
    """Remove the addresses and the token of the user who runs the tests."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def request_of(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "mine.yaml").write_text("base: ice\n")

    def make(run="ice", output="/shared/runs", **more):
        metadata = {"job": "train", "run": run, "output": output}
        settings = {"env_vars": {}, **more}
        return Request("train", run, (run, f"output={output}"), metadata, WorkingDir.of(folder), **settings)

    return make


def test_run_has_one_job_at_a_time(request_of):
    with job_server() as (url, fake):
        server = JobServer(url)
        assert server.submit(request_of()) == ("train-ice-1", True)
        assert server.submit(request_of()) == ("train-ice-1", False)
        assert server.submit(request_of("ice-1")) == ("train-ice-1-1", True)  # a run of a similar name
        assert server.submit(request_of(output="/elsewhere")) == ("train-ice-2", True)
        fake.end("train-ice-1", "FAILED", 1)
        assert server.submit(request_of()) == ("train-ice-3", True)
        assert [job.id for job in server.jobs()] == ["train-ice-1", "train-ice-1-1", "train-ice-2", "train-ice-3"]
        assert server.find("ice").id == "train-ice-3"
        assert server.find("train-ice-1").exit_code == 1
        fake.jobs["train-ice-2"]["start_time"] = None  # it waits for a place
        assert server.jobs()[-1].id == "train-ice-2"


def test_concurrent_submissions_start_one_job(request_of, monkeypatch):
    with job_server() as (url, fake):
        first, second = JobServer(url), JobServer(url)
        monkeypatch.setattr(second, "jobs", list)  # it looked before the other one's job was there
        assert first.submit(request_of()) == ("train-ice-1", True)
        assert second.submit(request_of()) == ("train-ice-1", False)
        assert len(fake.jobs) == 1


def test_submitted_request_equals_its_description(request_of):
    request = request_of(env_vars={"OMP_NUM_THREADS": "1"}, pip=("einops",))
    with job_server() as (url, fake):
        JobServer(url).submit(request)
        (job,) = fake.jobs.values()
        ((_, package),) = fake.packages.items()
    assert job["entrypoint"] == request.entrypoint == "python -m reid_ray.jobs.train ice output=/shared/runs"
    assert job["metadata"] == request.metadata
    assert job["runtime_env"]["env_vars"] == {"OMP_NUM_THREADS": "1"}
    assert "einops" in str(job["runtime_env"]["pip"])
    with zipfile.ZipFile(BytesIO(package)) as archive:
        assert {entry.filename: entry.file_size for entry in archive.infolist()} == dict(request.working_dir.files)


def test_explicit_address_takes_precedence(request_of, monkeypatch):
    """Ray's client prefers its environment variable."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{free_port()}")
    with job_server() as (url, fake):
        JobServer(url).submit(request_of())
        assert list(fake.jobs) == ["train-ice-1"]


def test_stopping_a_job(request_of):
    with job_server() as (url, _):
        server = JobServer(url)
        server.submit(request_of())
        assert server.stop("train-ice-1")
        assert not server.stop("train-ice-1")
        assert server.find("ice").status == "STOPPED"


def test_unknown_job_is_refused(request_of):
    with job_server() as (url, _):
        server = JobServer(url)
        with pytest.raises(RunError, match="has no job or run 'none'; it has had no jobs yet"):
            server.find("none")
        server.submit(request_of())
        with pytest.raises(RunError, match=r"no job or run 'none'; its newest jobs are train-ice-1\.$"):
            server.find("none")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_wrong_token_is_a_one_line_error(token, monkeypatch):
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with job_server(token="right") as (url, _):
        with pytest.raises(RunError, match=r"rejects this token .*RAY_AUTH_TOKEN") as caught:
            JobServer(url)
        assert "\n" not in str(caught.value)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right\n")
        assert JobServer(url).jobs() == []


def test_token_is_found_where_ray_looks_for_it(monkeypatch, tmp_path):
    assert token_header() == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("default\n")
    assert token_header() == {"Authorization": "Bearer default"}
    (tmp_path / "mine").write_text("of a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    assert token_header() == {"Authorization": "Bearer of a file"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the variable")
    assert token_header() == {"Authorization": "Bearer of the variable"}
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(RunError, match=r"Cannot read the token in .*none"):
        token_header()


def test_unreachable_server_is_refused(monkeypatch):
    port = free_port()
    with pytest.raises(
        RunError, match=rf"^No Ray job server answers at http://127\.0\.0\.1:{port} \(Connection refused\)"
    ):
        JobServer(f"127.0.0.1:{port}")


def test_silent_server_times_out(monkeypatch):
    monkeypatch.setattr(submission, "ANSWER_SECONDS", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(RunError, match=r"No Ray job server answers .*timed out"):
        JobServer(f"127.0.0.1:{silent.getsockname()[1]}")


def test_refusal_of_the_server_is_a_one_line_error(request_of):
    with job_server() as (url, fake):
        fake.refuse = 413, "Maximum request body size 104857600 exceeded\nand more"
        with pytest.raises(RunError, match=r"refused the request: .*413.*exceeded\.$"):
            JobServer(url).submit(request_of())


def test_sources_of_the_address(monkeypatch):
    with job_server() as (url, _), job_server() as (other, _):
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # of the cluster, not of its dashboard
        assert submission._url(None) == "http://127.0.0.1:8265"
        monkeypatch.setenv("RAY_ADDRESS", url)
        assert JobServer().address == url
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", other)
        assert JobServer().address == other
        assert JobServer(url).address == url  # what is said wins over the variables
        assert submission.os.environ["RAY_API_SERVER_ADDRESS"] == other


class Logs:
    """Stand-in for Ray's client: each connection sends the log from its beginning, then breaks."""

    def __init__(self, *connections, ended_after):
        self.connections, self.ended_after, self.n = connections, ended_after, 0

    async def tail_job_logs(self, job_id):
        text = self.connections[min(self.n, len(self.connections) - 1)]
        self.n += 1
        for character in text:
            yield character
        if self.n < self.ended_after:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, job_id):
        if self.n < self.ended_after:
            raise ConnectionError("gone")
        values = dict.fromkeys(("message", "metadata", "start_time", "end_time"))
        return type("Details", (), {**values, "submission_id": job_id, "status": "FAILED", "driver_exit_code": 2})


def test_log_is_written_once_if_the_connection_breaks(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with job_server() as (url, _):
        server = JobServer(url)
    server._client = Logs("one\n", "on", "one\ntwo\nthr", "one\ntwo\nthree\n", ended_after=4)
    seen = []
    job = server.follow("train-ice-1", seen.append)
    assert "".join(seen) == "one\ntwo\nthree\n"
    assert (job.status, job.exit_code, job.is_over) == ("FAILED", 2, True)


def test_lost_connection_times_out(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(submission, "RECONNECT_SECONDS", 0.05)
    with job_server() as (url, _):
        server = JobServer(url)
    server._client = Logs("one\n", ended_after=10**9)
    with pytest.raises(RunError, match=r"Lost the connection .*; the job continues .*reid-ray jobs follow train-ice-1"):
        server.follow("train-ice-1", lambda text: None)


def test_parts_of_a_log(monkeypatch):
    seen = []
    log = _Log(seen.append)
    for connection in (["ab", "c"], ["a", "bcd"], [], ["abcde"]):
        log.begin()
        for text in connection:
            log.add(text)
    assert seen == ["ab", "c", "d", "e"]


def test_times_of_a_job_are_seconds():
    details = type(
        "Details",
        (),
        {"submission_id": "a", "status": "RUNNING", "message": None, "metadata": None, "start_time": 1500,
         "end_time": None, "driver_exit_code": None},
    )  # fmt: skip
    assert Job.of(details) == Job("a", "RUNNING", "", {}, 1.5, None, None)
