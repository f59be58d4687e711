"""Jobs on a Ray cluster: what is sent, and the job server that runs, reports and stops it.

A job is `python -m reid_ray.jobs.JOB ARGUMENTS` on the cluster's head node. Its id is JOB-NAME-N: the N-th job of that
run. A run whose job is still active gets no second one; after a job has ended, the next resumes from its checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from reid_ray.errors import RunError
from reid_ray.io.files import first_line
from reid_ray.runtime.logging_utils import variables
from reid_ray.runtime.working_dir import EXCLUDES, WorkingDir

ADDRESS = "http://127.0.0.1:8265"
"""Of the dashboard of a Ray that runs on this machine."""

ANSWER_SECONDS = 10
"""In which a job server is to answer at all."""

PATIENCE = 60.0
"""Seconds without a connection after which following a job is given up. The job goes on."""

CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that tell of each upload and connection, whatever the level above them."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"

SECRET_NAMES = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
"""In names of environment variables whose values are not shown."""

N_NAMED = 5
"""Of a cluster's jobs, in a message."""


@dataclass(frozen=True)
class Request:
    """All that the job server is told.

    Attributes:
        job: which of `jobs/`.
        run: name of the run, and with `job` the beginning of the submission's id.
        arguments: of the job's command line.
        metadata: shown by the dashboard and by `reid-ray jobs list`.
        working_dir: what is sent along; the job starts in it.
        env_vars: for the job and all its workers.
        pip: packages that each node installs first; none, since an image has them.
    """

    job: str
    run: str
    arguments: tuple[str, ...]
    metadata: Mapping[str, str]
    working_dir: WorkingDir
    env_vars: Mapping[str, str]
    pip: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        return shlex.join(["python", "-m", f"reid_ray.jobs.{self.job}", *self.arguments])

    @property
    def runtime_env(self) -> dict[str, Any]:
        environment: dict[str, Any] = {"working_dir": str(self.working_dir.folder), "excludes": list(EXCLUDES)}
        if self.env_vars:
            environment["env_vars"] = dict(self.env_vars)
        if self.pip:
            environment["pip"] = list(self.pip)
        return environment

    def submission_id(self, number: int = 1) -> str:
        return f"{self.job}-{self.run}-{number}"

    def describe(self) -> str:
        """The request as YAML, its files with their bytes; nothing in it depends on time or on the cluster."""
        sent = {
            "submission_id": self.submission_id(),
            "entrypoint": self.entrypoint,
            "runtime_env": _masked(self.runtime_env),
            "metadata": dict(self.metadata),
            "files": dict(self.working_dir.files),
        }
        return yaml.safe_dump(sent, sort_keys=False, allow_unicode=True, width=1000)


def _masked(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a job as it is shown: without the values of variables that name a secret."""
    shown = dict(runtime_env)
    if "env_vars" in shown:
        shown["env_vars"] = {
            name: "***" if SECRET_NAMES.search(name) else value for name, value in shown["env_vars"].items()
        }
    return shown


@dataclass(frozen=True)
class Job:
    """A job that a cluster knows. Times are in seconds since 1970, None where it has not got there."""

    id: str
    status: str
    message: str
    metadata: Mapping[str, str]
    started: float | None
    ended: float | None
    exit_code: int | None

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    @classmethod
    def of(cls, details: Any) -> Job:
        """From Ray's description."""
        started, ended = (ms and ms / 1000 for ms in (details.start_time, details.end_time))
        return cls(
            details.submission_id,
            str(getattr(details.status, "value", details.status)),
            details.message or "",
            details.metadata or {},
            started or None,
            ended or None,
            details.driver_exit_code,
        )


class JobServer:
    """The job server of a cluster.

    Args:
        address: of the dashboard, `http://HOST:8265` or `HOST:8265`; None takes that of the variables
            `RAY_API_SERVER_ADDRESS` or `RAY_ADDRESS` where it is a URL, or else this machine.

    Raises:
        RunError: nobody answers there, or the token is refused; so do all methods.
    """

    def __init__(self, address: str | None = None) -> None:
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self.address = _url(address)
        with self._told():
            _reach(self.address)
            with variables({ADDRESS_VARIABLE: self.address}):  # which Ray's client puts above what it is told
                self._client = JobSubmissionClient(self.address, headers=token_header())

    def submit(self, request: Request) -> tuple[str, bool]:
        """Start a job, unless the run has one that has not ended.

        Returns:
            The id of the run's job, and whether it is a new one.
        """
        earlier = [job for job in self.jobs() if _is_of(job.id, request)]
        where = request.metadata.get("output")  # runs of one name in two places are two runs
        alive = [job for job in earlier if not job.is_over and job.metadata.get("output") == where]
        if alive:
            return alive[-1].id, False
        number = 1 + max((int(job.id.rpartition("-")[2]) for job in earlier), default=0)
        with self._told():
            try:
                return self._submit(request, request.submission_id(number)), True
            except RuntimeError as error:
                if "already exists" in str(error):  # somebody else was faster by less than a second
                    return request.submission_id(number), False
                raise

    def _submit(self, request: Request, submission_id: str) -> str:
        answer: str = self._client.submit_job(
            entrypoint=request.entrypoint,
            submission_id=submission_id,
            runtime_env=request.runtime_env,
            metadata=dict(request.metadata),
        )
        return answer

    def jobs(self) -> list[Job]:
        """All jobs that were submitted to this cluster, the oldest first."""
        with self._told():
            found = [Job.of(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or float("inf"))

    def find(self, name: str) -> Job:
        """The job of that id, or the newest of the run of that name; `RunError` where there is none."""
        jobs = self.jobs()
        found = [job for job in jobs if name in (job.id, job.metadata.get("run"))]
        if not found:
            known = ", ".join(job.id for job in jobs[-N_NAMED:])
            raise RunError(
                f"The cluster at {self.address} knows no job or run '{name}'"
                + (f"; its newest jobs are {known}." if known else "; it has had no job yet.")
            )
        return found[-1]

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Hand a job's log, from its beginning, to `write` as it grows; returns once the job has ended.

        A connection that breaks is made again; after `PATIENCE` seconds without one, `RunError`.
        """
        log, answered = _Log(write), time.monotonic()
        with self._told():
            while True:
                with suppress(ClientError, OSError, RuntimeError):
                    asyncio.run(self._tail(job_id, log))
                with suppress(OSError):  # errors of `requests` too
                    job = Job.of(self._client.get_job_info(job_id))
                    if job.is_over:
                        return job
                    answered = time.monotonic()
                if time.monotonic() - answered > PATIENCE:
                    raise RunError(
                        f"The connection to {self.address} is lost; the job goes on if the cluster does: 'reid-ray "
                        f"jobs follow {job_id}' follows it again."
                    )
                time.sleep(1)

    async def _tail(self, job_id: str, log: _Log) -> None:
        """Follow one connection to its end."""
        log.begin()
        async for text in self._client.tail_job_logs(job_id):
            log.add(text)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end, as Ctrl-C would; whether it was running."""
        with self._told():
            return bool(self._client.stop_job(job_id))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What a job server answers, as a sentence."""
        try:
            yield
        except AuthenticationError as error:
            raise RunError(
                f"The cluster at {self.address} does not take this token ({first_line(error)}); set RAY_AUTH_TOKEN, or "
                f"RAY_AUTH_TOKEN_PATH to a file, to the token that the cluster was started with."
            ) from None
        except OSError as error:  # errors of `requests` too
            raise RunError(_no_answer(self.address, error)) from None
        except (RuntimeError, ValueError) as error:
            raise RunError(f"The job server at {self.address} refuses: {first_line(error)}.") from error


class _Log:
    """A text that is written once, however often it is read from its beginning: each connection begins there."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._n_written = self._n_read = 0

    def begin(self) -> None:
        self._n_read = 0

    def add(self, text: str) -> None:
        new = text[max(0, self._n_written - self._n_read) :]
        self._n_read += len(text)
        if new:
            self._write(new)
            self._n_written = self._n_read


def token_header() -> dict[str, str]:
    """The header that shows this user's token, where there is one: `RAY_AUTH_TOKEN`, the file of `RAY_AUTH_TOKEN_PATH`,
    or `~/.ray/auth_token`. Unlike Ray's client it does not ask for RAY_AUTH_MODE=token too."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path).expanduser() if path else Path.home() / ".ray" / "auth_token"
    if not token and (path or file.is_file()):
        try:
            token = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"Cannot read the token in {file} ({error.strerror}); mend RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_TOKEN."
            ) from error
    token = token.strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _is_of(submission_id: str, request: Request) -> bool:
    name, _, number = submission_id.rpartition("-")
    return name == f"{request.job}-{request.run}" and number.isdigit()


def _url(address: str | None) -> str:
    """The dashboard's URL."""
    found = address or os.environ.get(ADDRESS_VARIABLE)
    if not found and os.environ.get("RAY_ADDRESS", "").startswith("http"):
        found = os.environ["RAY_ADDRESS"]
    if not found or found == "auto":
        return ADDRESS
    return (found if "://" in found else f"http://{found}").rstrip("/")


def _reach(url: str) -> None:
    """Raise OSError where nobody answers, within `ANSWER_SECONDS`; Ray's client would wait for minutes."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return  # somebody does; what he thinks of us the client hears


def _no_answer(address: str, error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    reason = getattr(cause, "strerror", None) or first_line(cause if isinstance(cause, Exception) else error)
    return (
        f"No Ray job server answers at {address} ({reason}); give --address http://HOST:8265 of the cluster's head, or "
        f"start one with 'ray start --head'."
    )
