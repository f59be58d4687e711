"""Jobs on a Ray cluster: the request, and the client of the job server that starts, follows and stops jobs.

A job is `python -m reid_ray.jobs.JOB ARGUMENTS` on the cluster's head node. Its id is JOB-NAME-N: the N-th job of that
run. A run has at most one active job; after a job has ended, the next one resumes from the checkpoint.
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
from reid_ray.logging_utils import variables
from reid_ray.runtime.working_dir import EXCLUDES, WorkingDir

ADDRESS = "http://127.0.0.1:8265"
"""Default address of the dashboard: a Ray cluster on this machine."""

ANSWER_SECONDS = 10
"""Timeout of the first request to a job server."""

RECONNECT_SECONDS = 60.0
"""Time without a connection after which following a job fails. The job continues."""

VERBOSE_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers that report each upload and connection, whatever the level of their parents."""

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"

SECRET_NAMES = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
"""In names of environment variables whose values are not shown."""

N_NAMED = 5
"""Number of a cluster's jobs to name in a message."""


@dataclass(frozen=True)
class Request:
    """A job submission.

    Attributes:
        job: name of a module in `jobs/`.
        run: name of the run; the submission id is JOB-RUN-N.
        arguments: command line of the job.
        metadata: shown by the dashboard and by `reid-ray jobs list`.
        working_dir: files to upload; the job starts in this folder.
        env_vars: for the job and all its workers.
        pip: packages that each node installs first; none by default, because the container image has them.
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
        """The request as YAML, with the sizes of its files; independent of time and cluster."""
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
    """A job of a cluster. Times are in seconds since 1970, None before the job starts or ends."""

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
        """Convert Ray's job details."""
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
    """Client of a cluster's job server.

    Args:
        address: of the dashboard, `http://HOST:8265` or `HOST:8265`. None: `RAY_API_SERVER_ADDRESS`, else `RAY_ADDRESS`
            if it is a URL, else this machine.

    Raises:
        RunError: the server does not answer or refuses the token; so do all methods.
    """

    def __init__(self, address: str | None = None) -> None:
        for name in VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = _url(address)
        with self._as_run_errors():
            _check_reachable(self.address)
            with variables({ADDRESS_VARIABLE: self.address}):  # takes precedence over the argument in Ray's client
                self._client = JobSubmissionClient(self.address, headers=token_header())

    def submit(self, request: Request) -> tuple[str, bool]:
        """Start a job, unless the run has an active one.

        Returns:
            The id of the run's job, and whether it is new.
        """
        earlier = [job for job in self.jobs() if _is_of(job.id, request)]
        where = request.metadata.get("output")  # runs with the same name but different outputs are different runs
        alive = [job for job in earlier if not job.is_over and job.metadata.get("output") == where]
        if alive:
            return alive[-1].id, False
        number = 1 + max((int(job.id.rpartition("-")[2]) for job in earlier), default=0)
        with self._as_run_errors():
            try:
                return self._submit(request, request.submission_id(number)), True
            except RuntimeError as error:
                if "already exists" in str(error):  # another submission won a race
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
        """All submitted jobs of this cluster, oldest first."""
        with self._as_run_errors():
            found = [Job.of(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or float("inf"))

    def find(self, name: str) -> Job:
        """The job with this id, or the newest job of the run with this name; `RunError` if there is none."""
        jobs = self.jobs()
        found = [job for job in jobs if name in (job.id, job.metadata.get("run"))]
        if not found:
            known = ", ".join(job.id for job in jobs[-N_NAMED:])
            raise RunError(
                f"The cluster at {self.address} has no job or run '{name}'"
                + (f"; its newest jobs are {known}." if known else "; it has had no jobs yet.")
            )
        return found[-1]

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Pass the log of a job, from its beginning, to `write` as it grows; return when the job has ended.

        Reconnects if the connection breaks; `RunError` after `RECONNECT_SECONDS` without one.
        """
        log, answered = _Log(write), time.monotonic()
        with self._as_run_errors():
            while True:
                with suppress(ClientError, OSError, RuntimeError):
                    asyncio.run(self._tail(job_id, log))
                with suppress(OSError):  # errors of `requests` too
                    job = Job.of(self._client.get_job_info(job_id))
                    if job.is_over:
                        return job
                    answered = time.monotonic()
                if time.monotonic() - answered > RECONNECT_SECONDS:
                    raise RunError(
                        f"Lost the connection to {self.address}; the job continues if the cluster does. Run 'reid-ray "
                        f"jobs follow {job_id}' to follow it again."
                    )
                time.sleep(1)

    async def _tail(self, job_id: str, log: _Log) -> None:
        """Read the log until the connection ends."""
        log.begin()
        async for text in self._client.tail_job_logs(job_id):
            log.add(text)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end, as Ctrl-C does; return whether it was running."""
        with self._as_run_errors():
            return bool(self._client.stop_job(job_id))

    @contextmanager
    def _as_run_errors(self) -> Iterator[None]:
        """Convert errors of the client into `RunError`."""
        try:
            yield
        except AuthenticationError as error:
            raise RunError(
                f"The cluster at {self.address} rejects this token ({first_line(error)}); set RAY_AUTH_TOKEN to the "
                f"token that the cluster was started with, or RAY_AUTH_TOKEN_PATH to a file with it."
            ) from None
        except OSError as error:  # errors of `requests` too
            raise RunError(_no_answer(self.address, error)) from None
        except (RuntimeError, ValueError) as error:
            raise RunError(f"The job server at {self.address} refused the request: {first_line(error)}.") from error


class _Log:
    """Writes a log once, although every connection sends it from the beginning."""

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
    """The header with this user's token, if any: `RAY_AUTH_TOKEN`, the file at `RAY_AUTH_TOKEN_PATH`, or
    `~/.ray/auth_token`. Unlike Ray's client, it does not require RAY_AUTH_MODE=token."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(path).expanduser() if path else Path.home() / ".ray" / "auth_token"
    if not token and (path or file.is_file()):
        try:
            token = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"Cannot read the token in {file} ({error.strerror}); fix RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_TOKEN."
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


def _check_reachable(url: str) -> None:
    """Raise OSError if the server does not answer within `ANSWER_SECONDS`; Ray's client would wait for minutes."""
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return  # the server answers; the client reports the error


def _no_answer(address: str, error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    reason = getattr(cause, "strerror", None) or first_line(cause if isinstance(cause, Exception) else error)
    return (
        f"No Ray job server answers at {address} ({reason}); pass --address http://HOST:8265 of the head node, or "
        f"start a cluster with 'ray start --head'."
    )
