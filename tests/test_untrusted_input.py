"""What comes from others (runs, models, lists, images, names) runs no code, leaves no folder and leaks no secret.

Packed data (links, `..`, absolute keys) is in tests/data/test_pack.py, lists of archives in
tests/data/test_folders_as_found.py, images that claim to be huge in tests/data/test_decoding.py, weights files in
tests/models/test_weights_formats.py, credentials in URIs in tests/io/test_paths.py.
"""

import io
import os
import sys
from pathlib import Path

import pytest
import ray
import torch
import yaml
from rich.table import Table

from reid_ray.cli import main
from reid_ray.cli.progress import counting, make_console
from reid_ray.config import load_config
from reid_ray.errors import RunError, UserError, WeightsError
from reid_ray.inference.exported import load_exported
from reid_ray.reports.run_report import report_run
from reid_ray.run import load_run
from reid_ray.runtime.cluster import joined
from reid_ray.runtime.submission import Request
from reid_ray.runtime.working_dir import WorkingDir
from reid_ray.training.checkpoint import Checkpoint, version_errors

ROOT = Path(__file__).parents[1]
MARKUP = "[bold]a[/bold] [/]"


class RunsCode:
    """What a stranger puts in a pickle."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def poisoned(tmp_path):
    """A file in PyTorch's format whose reading makes a folder, and that folder."""
    torch.save({"model": RunsCode(tmp_path / "ran")}, tmp_path / "step-1-0-0.pt")
    return tmp_path / "step-1-0-0.pt", tmp_path / "ran"


def test_a_model_and_a_checkpoint_run_nothing_and_nobody_is_advised_to_let_them(tiny, poisoned):
    file, ran = poisoned
    with pytest.raises(WeightsError) as of_model:
        load_exported(tiny(), file)
    with pytest.raises(RunError) as of_checkpoint, version_errors(file):
        Checkpoint.load(file)
    for caught in (of_model, of_checkpoint):
        message = str(caught.value)
        assert not any(word in message for word in ("weights_only", "trust", "safe_globals", "\n", "\x1b"))
    assert not ran.exists()
    torch.load(file, weights_only=False)
    assert ran.exists(), "the file would have run it"


def test_a_configuration_runs_nothing(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(str(file))
    assert not (tmp_path / "ran").exists()


def test_names_are_text_in_a_report(tiny, finished_run, tmp_path):
    evil = "<img src=x onerror=alert(1)>.jpg"
    run = load_run(finished_run.path)
    text = run.directory.config_file.read_text()
    try:
        run.directory.config_file.write_text(text.replace("attributes: null", f"attributes: '{evil}'", 1))
        page = report_run(load_run(finished_run.path)).read_text()
    finally:
        run.directory.config_file.write_text(text)
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_brackets_are_printed_as_they_are(capsys):
    console = make_console()
    table = Table(MARKUP, title=MARKUP, caption=MARKUP)
    table.add_row(MARKUP)
    console.print(MARKUP, soft_wrap=True)
    console.print(table)
    with counting(console, MARKUP, 3):
        pass
    output = capsys.readouterr().out
    assert output.count(MARKUP) == 5
    assert "\x1b" not in output


def test_commands_print_brackets_in_names(tmp_path, monkeypatch, capsys):
    from torchvision.io import write_jpeg

    crops = tmp_path / "[red]crops"
    (crops / "[").mkdir(parents=True)
    write_jpeg(torch.zeros(3, 64, 32, dtype=torch.uint8), str(crops / "a.jpg"))
    (crops / "[" / "]bad.jpg").write_bytes(b"no image")  # its path holds [/], which ends a style that was never begun
    for arguments, found in (
        (("data", "check", crops), ("[/]bad.jpg", "[red]crops")),
        (("data", "pack", crops, tmp_path / "[i]out", "--skip-bad"), ("[/]bad.jpg", "[i]out")),
        (("data", "check", tmp_path / "[i]out"), ("No problems found",)),
        (("data", "pack", crops, tmp_path / "[u]other"), ("[/]bad.jpg",)),
        (("status", tmp_path / "[" / "]none"), ("[/]none",)),
    ):
        monkeypatch.setattr(sys, "argv", ["reid-ray", *map(str, arguments)])
        with pytest.raises(SystemExit):
            main()
        captured = capsys.readouterr()
        text = " ".join((captured.out + captured.err).split())
        assert "Traceback" not in text
        for part in found:
            assert part in text, arguments


SECRETS = (
    *(".env", ".env.local", "prod.env", ".envrc", ".netrc", ".pypirc", ".git-credentials", ".git/config", "id_rsa"),
    *("id_ed25519.pub", "deploy.pem", "tls.key", ".aws/credentials", ".ssh/config", ".kube/config", "auth_token"),
    *("pkg/.env", "pkg/deep/server.key", "my_service_account.json", "credentials.json"),
)


@pytest.mark.parametrize("linked", [False, True])
def test_a_job_carries_no_secret(linked, tmp_path):
    folder = tmp_path / "project"
    for name in (*SECRETS, "recipe.yaml", "pkg/keys.py", "pkg/environment.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("secret")
    if linked:  # a worktree's .git is a file
        (folder / "sub").mkdir()
        (folder / "sub" / ".git").write_text("gitdir: elsewhere")
    assert [name for name, _ in WorkingDir.of(folder).files] == ["pkg/environment.py", "pkg/keys.py", "recipe.yaml"]


def test_a_job_shows_no_secret(tmp_path):
    secrets = {"AWS_SECRET_ACCESS_KEY": "s3cr3t", "HF_TOKEN": "s3cr3t", "db_password": "s3cr3t", "RAY_AUTH": "s3cr3t"}
    request = Request("train", "ice", (), {}, WorkingDir.of(tmp_path), {**secrets, "OMP_NUM_THREADS": "7"})
    shown = request.describe()
    assert "s3cr3t" not in shown
    assert yaml.safe_load(shown)["runtime_env"]["env_vars"] == {**dict.fromkeys(secrets, "***"), "OMP_NUM_THREADS": "7"}
    assert request.runtime_env["env_vars"]["HF_TOKEN"] == "s3cr3t", "the job gets it all the same"


def test_what_a_run_writes_holds_no_variable_of_the_environment(tmp_path):
    """Secrets come by variables; a run's files do not hold any."""
    import subprocess

    from small_runs import TINY

    secret = "s3cr3t-value-of-a-variable"
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": secret, "HF_TOKEN": secret, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "reid_ray", "train", "demo", *TINY, "training.epochs=1", "training.iterations=1"]
    answer = subprocess.run([*command, f"output={tmp_path}"], env=environment, capture_output=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr.decode()
    assert secret.encode() not in answer.stdout + answer.stderr
    files = [file for file in (tmp_path / "demo").rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if secret.encode() in file.read_bytes()]


def test_the_dashboard_of_a_run_s_own_ray_answers_this_machine_only(tmp_path, monkeypatch):
    told = {}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: told.update(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with joined(None, num_cpus=1, partial_writes=tmp_path):
        assert told["dashboard_host"] == "127.0.0.1"


@pytest.mark.parametrize("file", sorted((ROOT / "cluster" / "docker").glob("Dockerfile*")), ids=lambda file: file.name)
def test_containers_do_not_run_as_root(file):
    users = [line.split()[1] for line in file.read_text().splitlines() if line.startswith("USER ")]
    assert users[-1] == "1000"


@pytest.mark.parametrize("file", sorted((ROOT / "cluster" / "kuberay").rglob("*.yaml")), ids=lambda file: file.name)
def test_every_pod_is_confined(file):
    def pods(thing):
        if isinstance(thing, dict):
            if "containers" in thing and "patch" not in file.name:
                yield thing
            for inner in thing.values():
                yield from pods(inner)
        elif isinstance(thing, list):
            for inner in thing:
                yield from pods(inner)

    for pod in pods(list(yaml.safe_load_all(io.StringIO(file.read_text())))):
        context = pod["securityContext"]
        assert context["runAsNonRoot"]
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
