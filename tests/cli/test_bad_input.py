"""Bad input: a one-line error, exit code 2, no traceback, and no partially written files."""

import struct
import sys
import zlib

import pytest
import torch
from small_processes import assert_refused
from torchvision.io import write_jpeg

from reid_ray.api import train
from reid_ray.cli import main
from reid_ray.config import dump_config


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `reid-ray` in this process; return the exit code and the output on one line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["reid-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        return ended.value.code or 0, " ".join((captured.err + captured.out).split())

    return run


@pytest.fixture
def crops(tmp_path):
    """A folder of crops without identities."""
    folder = tmp_path / "crops"
    for camera in ("a", "b"):
        (folder / camera).mkdir(parents=True)
        for i in range(4):
            pixels = torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8)
            write_jpeg(pixels, str(folder / camera / f"{i}.jpg"))
    return folder


def small(tmp_path, *overrides):
    return [
        *("train", "demo", "runtime.backend=inline", "runtime.n_workers=1", f"output={tmp_path / 'runs'}"),
        *("data.height=32", "data.width=16", "training.epochs=1", "training.iterations=1"),
        *("labels.k1=4", "labels.k2=2", "training.precision=float32", *overrides),
    ]


def test_missing_folder(command, tmp_path):
    result = command(*small(tmp_path, "data.layout=market1501", f"data.root={tmp_path / 'nowhere'}"))
    assert_refused(result, "nowhere")
    assert not (tmp_path / "runs").exists()


def test_empty_split(command, tmp_path):
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (tmp_path / "market" / split).mkdir(parents=True)
    result = command(*small(tmp_path, "data.layout=market1501", f"data.root={tmp_path / 'market'}"))
    assert_refused(result, "bounding_box_train")
    assert not (tmp_path / "runs").exists()


def test_corrupt_image(command, tmp_path, crops):
    (crops / "a" / "2.jpg").write_bytes(b"this is no image")
    result = command(*small(tmp_path, "data.layout=folder", f"data.root={crops}"))
    assert_refused(result, "2.jpg", "data check")


def test_truncated_png(command, tmp_path, crops):
    """libpng exits by longjmp, which used to crash the process with exit code 139 and without naming the image."""
    header = struct.pack(">IIBBBBB", 64, 128, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(5 * (1 + 64 * 3)))), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    (crops / "a" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    result = command(*small(tmp_path, "data.layout=folder", f"data.root={crops}"))
    assert_refused(result, "5.png", "holds fewer rows than the 128 of its header", "data check")


def test_images_must_be_written_as_png(command, tmp_path, finished_run):
    for arguments in (("rank", finished_run.path, "--out"), ("data", "sheet")):
        assert_refused(command(*arguments, tmp_path / "result.txt"), "result.txt must end in .png")
        assert_refused(command(*arguments, tmp_path / "nowhere" / "a.png"), "does not exist")
    assert not list(tmp_path.iterdir())


def test_unknown_recipe(command):
    assert_refused(command("train", "icee"), "icee", "did you mean 'ice'")


def test_markup_in_arguments_is_printed_literally(command):
    assert_refused(command("train", "[red]ice"), "'[red]ice'")


def test_unknown_key(command):
    assert_refused(command("train", "demo", "training.epoch=3"), "training.epoch", "training.epochs")


def test_unknown_stage_and_optimizer(command, tmp_path):
    assert_refused(command(*small(tmp_path, "stages.sorce.epochs=3")), "stages.sorce: unknown", "ice")
    assert_refused(command(*small(tmp_path, "training.optimizers.mian.lr=1")), "did you mean 'main'")
    assert not (tmp_path / "runs").exists()


def test_wrong_type(command):
    assert_refused(command("train", "demo", "training.epochs=many"), "training.epochs", "integer")


def test_query_without_gallery(command, tmp_path, crops, finished_run):
    table = tmp_path / "table.csv"
    table.write_text("path,pid,camid,split\ncrops/a/0.jpg,1,0,train\ncrops/a/1.jpg,1,0,query\n")
    result = command("evaluate", finished_run.path, "data.layout=csv", f"data.root={table}")
    assert_refused(result, "gallery")


def test_table_without_identities_cannot_be_evaluated(command, crops, finished_run):
    result = command("evaluate", finished_run.path, "data.layout=folder", f"data.root={crops}")
    assert_refused(result, "cannot be evaluated", "no query and no gallery")


def test_weights_that_do_not_fit(command, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"conv1.weight": torch.zeros(3, 3)}, weights)
    result = command(*small(tmp_path, f"model.weights={weights}"))
    assert_refused(result, "weights.pth")
    assert not (tmp_path / "runs" / "demo" / "metrics.jsonl").exists()


def test_weights_file_that_is_not_one(command, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"nonsense")
    assert_refused(command(*small(tmp_path, f"model.weights={weights}")), "weights.pth")


def test_unwritable_run_directory(command, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    assert_refused(command(*small(tmp_path)), "runs", "output=")


def test_run_directory_of_another_configuration(command, tmp_path, finished_run):
    run = finished_run
    recipe = tmp_path / "other.yaml"
    recipe.write_text(dump_config(run.config).replace("eps: 0.7", "eps: 0.6"))
    before = sorted(path.name for path in run.path.rglob("*"))
    result = command("train", recipe)
    assert_refused(result, "labels.eps was 0.7 and is 0.6", "name=")
    assert sorted(path.name for path in run.path.rglob("*")) == before


def test_run_directory_of_another_version(command, tmp_path, tiny):
    run = train(tiny("training.epochs=1", "training.iterations=1"))
    recipe = tmp_path / "longer.yaml"
    recipe.write_text(dump_config(run.config).replace("epochs: 1\n", "epochs: 2\n"))
    file = run.directory.config_file
    header = "# run directory format: "
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(header)))
    for arguments in (("train", recipe), ("evaluate", run.path), ("report", run.path), ("status", run.path)):
        assert_refused(
            command(*arguments), "run directory of format 1", "finish the run with the version that began it"
        )


def test_full_disk(command, tmp_path, tiny, file_size_limit):
    """The previous checkpoint is intact, no partial file stays, and with free space the same command resumes."""
    run = train(tiny("training.epochs=1", "training.iterations=1"))
    recipe = tmp_path / "longer.yaml"
    recipe.write_text(dump_config(run.config).replace("epochs: 1\n", "epochs: 2\n"))
    saved = {path: path.read_bytes() for path in run.directory.checkpoints.iterdir()}
    with file_size_limit(2**20):
        result = command("train", recipe)
    assert_refused(result, "step-00000001-0-1.pt", "File too large", "free space")
    assert {path: path.read_bytes() for path in run.directory.checkpoints.iterdir()} == saved
    assert not list(run.path.rglob("*.tmp"))
    assert command("train", recipe)[0] == 0
    assert [event["epoch"] for event in run.metrics("epoch")] == [0, 1]


def test_unwritable_report_does_not_hide_the_model(command, tmp_path, tiny):
    run = train(tiny("training.epochs=1", "training.iterations=1"))
    (run.path / "report.html").mkdir()
    recipe = tmp_path / "again.yaml"
    recipe.write_text(dump_config(run.config))
    code, text = command("train", recipe)
    assert code == 0
    assert "No report" in text
    assert "model-last.pt" in text


def test_folder_that_is_not_a_run_directory_is_not_touched(command, tmp_path):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "thesis.doc").write_text("important")
    assert_refused(command(*small(tmp_path)), "not a run directory")
    assert (tmp_path / "runs" / "demo" / "thesis.doc").read_text() == "important"


def test_images_that_changed_since_the_start_of_the_run(command, tmp_path, crops):
    identities = (r"data.pid_regex=(\d)\.jpg", "method.mode=supervised")
    arguments = small(tmp_path, "data.layout=folder", f"data.root={crops}", *identities)
    assert command(*arguments)[0] == 0
    (crops / "a" / "0.jpg").unlink()
    assert_refused(command(*arguments, "training.epochs=2"), "other images")


def test_workers_without_torchrun(command, tmp_path):
    assert_refused(command(*small(tmp_path, "runtime.n_workers=2", "model.bn_group=16")), "torchrun")


def test_cuda_without_a_gpu(command, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_refused(command(*small(tmp_path, "runtime.device=cuda")), "cuda", "runtime.device")


def test_no_run_directory_to_evaluate(command, tmp_path):
    assert_refused(command("evaluate", tmp_path), "not a run directory")


def test_unknown_model_and_split(command, finished_run, tmp_path):
    assert_refused(command("evaluate", finished_run.path, "--model", "worst"), "worst")
    assert_refused(command("extract", finished_run.path, "-o", tmp_path / "f.npy", "--split", "test"), "'test'")
    assert not list(tmp_path.glob("*f.npy*"))


def test_settings_of_reranking_without_reranking(command, finished_run):
    assert_refused(command("evaluate", finished_run.path, "--lambda", 0.2), "--rerank")


def test_invalid_outputs_for_features(command, finished_run, crops, tmp_path):
    def extract(out, *options):
        return command("extract", finished_run.path, "--out", out, *options)

    assert_refused(extract(tmp_path / "features.txt"), "must end in .npy", "folder")
    assert_refused(extract(tmp_path / "f.npy", "--extractors", 2), "--extractors", "f.npy is a file")
    assert_refused(extract(tmp_path / "none" / "features"), "does not exist")
    assert_refused(extract(crops), "is not a folder of features")
    assert_refused(extract(tmp_path / "features", "--model", "worst"), "model-worst.pt")
    assert sorted(tmp_path.iterdir()) == [crops]


def test_folder_without_features_cannot_be_labelled(command, crops, tmp_path):
    out = tmp_path / "labels.parquet"
    assert_refused(command("label", crops, "--out", out), "is not a folder of features", "reid-ray extract")
    assert not out.exists()


def test_usage_errors_exit_with_2(command):
    assert command("train")[0] == 2
    assert command("nonsense")[0] == 2
    assert command("train", "demo", "--nonsense")[0] == 2
