"""`reid-ray submit` and `jobs`: the request, what is refused before it is sent, and exit codes."""

import shlex
from pathlib import Path
from textwrap import indent

import pytest
import typer.main
import yaml
from job_server import job_server
from typer.testing import CliRunner

from reid_ray.cli import app, jobs
from reid_ray.cli.jobs import JOBS
from reid_ray.config import config_hash, load_config
from reid_ray.errors import ConfigError
from reid_ray.runtime import working_dir
from reid_ray.runtime.submission import JobServer
from reid_ray.runtime.working_dir import EXCLUDES

SHARED = ("data.root=/shared/market", "output=/shared/runs")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory: a recipe, and a run that is not uploaded."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "work"
    (root / "recipes").mkdir(parents=True)
    (root / "recipes" / "mine.yaml").write_text("base: ice\nname: mine\ntraining: {epochs: 3}\n")
    (root / "runs").mkdir()
    (root / "runs" / "big.pt").write_bytes(bytes(1000))
    monkeypatch.chdir(root)
    return root


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments):
    """The one-line error of a refused command line."""
    result = run(*arguments)
    assert isinstance(result.exception, ConfigError), result.output
    message = str(result.exception)
    assert "\n" not in message
    return message


def test_dry_run_prints_the_request(folder):
    result = run("submit", "recipes/mine.yaml", *SHARED, "--env", "OMP_NUM_THREADS=2", "--pip", "einops", "--dry-run")
    assert result.exit_code == 0, result.output
    config = load_config("recipes/mine.yaml", SHARED)
    excludes = indent(yaml.safe_dump(list(EXCLUDES)).strip(), "  ")
    assert (
        result.stdout
        == f"""\
submission_id: train-mine-1
entrypoint: python -m reid_ray.jobs.train recipes/mine.yaml data.root=/shared/market output=/shared/runs
runtime_env:
  working_dir: {folder}
  excludes:
{excludes}
  env_vars:
    OMP_NUM_THREADS: '2'
  pip:
  - einops
metadata:
  job: train
  run: mine
  recipe: recipes/mine.yaml
  config: {config_hash(config)}
  output: /shared/runs
files:
  recipes/mine.yaml: 43
"""
    )


def test_submitted_request_equals_the_dry_run(folder):
    """The same command without --dry-run, to a server that records the request."""
    told = yaml.safe_load(run("submit", "ice", *SHARED, "--dry-run").stdout)
    with job_server() as (url, fake):
        result = run("submit", "ice", *SHARED, "--address", url, "--no-follow")
        assert result.exit_code == 0, result.output
        (job,) = fake.jobs.values()
    assert f"{folder}: 1 files, 0.0 kB of 100 MB; largest: recipes/mine.yaml (0.0 kB); left out: runs/" in result.stderr
    assert f"Submitted train-ice-1 on {url}" in result.stderr
    for key in ("submission_id", "entrypoint", "metadata"):
        assert job[key] == told[key]
    assert job["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")


@pytest.mark.parametrize(
    ("job", "arguments", "run_name"),
    [
        ("extract", ("/shared/runs/ice", "--out", "/shared/features", "--extractors", "8"), "ice"),
        ("label", ("/shared/features", "--out", "/shared/labels.parquet", "labels.eps=0.5"), "features"),
        ("evaluate", ("/shared/runs/ice 0.5", "--rerank"), "ice-0.5"),
        ("pack", ("/shared/crops", "/shared/packed", "--shard-mb", "64"), "crops"),
    ],
)
def test_other_jobs_have_the_arguments_of_their_commands(job, arguments, run_name):
    result = run("submit", "--job", job, *arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    sent = yaml.safe_load(result.stdout)
    assert shlex.split(sent["entrypoint"]) == ["python", "-m", f"reid_ray.jobs.{job}", *arguments]
    assert sent["submission_id"] == f"{job}-{run_name}-1"
    assert sent["metadata"].get("output") == (None if job == "evaluate" else arguments[1 + (job != "pack")])


def test_every_job_has_a_module_and_a_command():
    whole = typer.main.get_command(app)
    for job, path in JOBS.items():
        assert (Path(jobs.__file__).parents[2] / "jobs" / f"{job}.py").exists()
        command = whole
        for name in path:
            command = command.commands[name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("ice", "data.root=/shared/market"),
            "output=runs is relative to the job's working directory, which is deleted",
        ),
        (("ice", "data.root=market", "output=/shared/runs"), "data.root=market is relative to"),
        (("ice", "model.weights=~/w.pth", *SHARED), "model.weights=~/w.pth is relative to"),
        (("ice", *SHARED, "training.epoch=3"), "did you mean 'training.epochs'"),
        (("icee", *SHARED), "did you mean 'ice'"),
        (("ice", *SHARED, "--env", "NO_SUCH_VARIABLE"), "this shell has no such variable"),
        (("ice", *SHARED, "--working-dir", "none"), "none is not a folder"),
        (("--job", "extract", "runs/ice", "--out", "/shared/f"), "run=runs/ice is relative to"),
        (("--job", "extract", "/shared/ice", "--out", "f"), "out=f is relative to"),
        (("--job", "evaluate", "/shared/ice", "data.root=market"), "data.root=market is relative to"),
        (("--job", "pack", "crops", "/shared/packed"), "source=crops is relative to"),
    ],
)
def test_bad_requests_are_refused_locally(arguments, words):
    assert words in refused("submit", *arguments)


def test_uris_are_accepted_as_paths():
    result = run("submit", "ice", "data.root=s3://bucket/market", "output=s3://bucket/runs", "--dry-run")
    assert result.exit_code == 0, result.output


def test_recipe_that_is_not_uploaded_is_refused(folder, tmp_path):
    (tmp_path / "outside.yaml").write_text("base: ice\n")
    assert "recipe ../outside.yaml is not among the uploaded files" in refused("submit", "../outside.yaml", *SHARED)
    (folder / ".rayignore").write_text("recipes/\n")
    assert "recipes/mine.yaml is not among the uploaded files" in refused("submit", "recipes/mine.yaml", *SHARED)
    result = run("submit", str(tmp_path / "outside.yaml"), *SHARED, "--dry-run")  # on storage that the cluster sees too
    assert f"jobs.train {tmp_path}/outside.yaml data.root" in result.stdout


def test_too_large_working_directory_is_refused_before_any_request(folder, monkeypatch):
    monkeypatch.setattr(working_dir, "LIMIT_MB", 0.01)
    (folder / "images.npy").write_bytes(bytes(20_000))
    message = refused("submit", "ice", *SHARED, "--address", "http://127.0.0.1:1")
    assert "a cluster accepts 0.01 MB; the largest are images.npy (19.5 kB)" in message


def test_unknown_option_of_the_job():
    result = run("submit", "ice", *SHARED, "--fast", "--dry-run")
    assert result.exit_code == 2
    assert "No such option" in result.output


def test_follow_exits_with_the_code_of_the_job(monkeypatch):
    def follow(server, job_id, write):
        write("error: no such folder\n")
        return server.find(job_id)

    monkeypatch.setattr(JobServer, "follow", follow)
    with job_server() as (url, fake):
        run("submit", "ice", *SHARED, "--address", url, "--no-follow")
        for status, code, expected in (
            ("SUCCEEDED", 0, 0),
            ("FAILED", 2, 2),
            ("FAILED", None, 1),
            ("STOPPED", -15, 130),
        ):
            fake.end("train-ice-1", status, code)
            result = run("jobs", "follow", "ice", "--address", url)
            assert result.exit_code == expected
            assert result.stdout == "error: no such folder\n"
            assert f"train-ice-1 {status.lower()}" in result.stderr


def test_ctrl_c_stops_following_and_not_the_job(monkeypatch):
    def follow(server, job_id, write):
        raise KeyboardInterrupt

    monkeypatch.setattr(JobServer, "follow", follow)
    with job_server() as (url, fake):
        result = run("submit", "ice", *SHARED, "--address", url)
        assert fake.jobs["train-ice-1"]["status"] == "RUNNING"
    assert result.exit_code == 130
    assert "reid-ray jobs stop train-ice-1" in result.stderr


def test_jobs_are_listed_and_stopped():
    with job_server() as (url, _):
        for _ in range(2):
            result = run("submit", "ice", *SHARED, "--address", url, "--no-follow")
        assert "'ice' already has an active job: train-ice-1" in result.stderr
        assert run("jobs", "stop", "ice", "--address", url).stdout == "Stopping train-ice-1.\n"
        assert run("jobs", "stop", "ice", "--address", url).stdout == "train-ice-1 was not running: stopped.\n"
        listed = run("jobs", "list", "--address", url).stdout
        assert [cell.strip() for cell in listed.splitlines()[3].strip("│").split("│")][:3] == [
            "train-ice-1", "ice", "stopped",
        ]  # fmt: skip
