"""Generated images in the report and from Python: drawn again from the checkpoint they are those of the run."""

import numpy as np
import pytest
import torch
from torchvision.io import ImageReadMode, decode_image
from toy_system import OVERRIDES, write_images

from reid_ray.api import train
from reid_ray.config import load_config
from reid_ray.errors import RunError
from reid_ray.reports.generated import generated_pictures, redraw_generated
from reid_ray.reports.run_report import report_run
from reid_ray.run import load_run


class StoppedError(Exception):
    pass


def stop_before(stage):
    def listen(event):
        if event["event"] == "start" and event["stage"] == stage:
            raise StoppedError

    return listen


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of the toy that has finished its stage `generate`, and begun no other."""
    folder = tmp_path_factory.mktemp("toy")
    config = load_config("demo", [*OVERRIDES, f"data.root={write_images(folder)}", f"output={folder}"])
    with pytest.raises(StoppedError):
        train(config, listener=stop_before("refine"))
    return load_run(folder / config.name)


def png(run, name):
    return decode_image(str(run.directory.generated_file("generate", 1, name)), ImageReadMode.RGB)


def test_from_python_the_pictures_are_those_of_the_run(stopped):
    pictures = stopped.render()
    assert sorted(pictures) == ["codes", "images"]
    for name, pixels in pictures.items():
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, png(stopped, name).permute(1, 2, 0).numpy())
    others = stopped.render(seed=1)
    assert not np.array_equal(others["images"], pictures["images"])


def test_the_whole_method_is_there_in_evaluation_mode(stopped):
    method = stopped.load_method()
    assert {"generator", "discriminator", "head"} <= set(method.modules)
    assert not any(module.training for module in method.modules.values())
    exported = torch.load(stopped.directory.model_file("last"), weights_only=True)
    for name, tensor in exported["model"].items():
        assert torch.equal(method.modules["head"].encoder.state_dict()[name], tensor)


def test_a_report_draws_them_again_and_shows_them(stopped):
    file = stopped.directory.generated_file("generate", 1, "images")
    before = file.read_bytes()
    file.unlink()
    page = report_run(stopped).read_text(encoding="utf-8")
    assert file.read_bytes() == before
    for name in ("codes", "images"):
        assert f"Generated: {name} (stage generate, epoch 1)" in page
    file.unlink()
    assert "Generated: images" not in report_run(stopped, redraw=False).read_text(encoding="utf-8")
    redraw_generated(stopped)


def test_the_report_shows_the_latest_of_each_stage(stopped):
    for epoch in (2, 10):
        later = stopped.directory.generated_file("generate", epoch, "images")
        later.write_bytes(stopped.directory.generated_file("generate", 1, "images").read_bytes())
    other = stopped.directory.generated_file("a-b", 3, "c-d")
    other.write_bytes(later.read_bytes())
    shown = generated_pictures(stopped)
    assert list(shown) == [
        "Generated: c-d (stage a-b, epoch 3)",
        "Generated: codes (stage generate, epoch 1)",
        "Generated: images (stage generate, epoch 10)",
    ]
    assert shown["Generated: images (stage generate, epoch 10)"] == later
    for file in (later, other, stopped.directory.generated_file("generate", 2, "images")):
        file.unlink()


def test_without_its_images_a_run_keeps_its_pictures(stopped):
    moved = stopped.path.parent / "list.csv"
    hidden = moved.rename(moved.with_name("hidden.csv"))
    try:
        with pytest.warns(UserWarning, match="Generated images are not drawn again"):
            page = report_run(load_run(stopped.path)).read_text(encoding="utf-8")
        assert "Generated: images" in page
    finally:
        hidden.rename(moved)


def test_a_method_that_generates_nothing_reads_no_checkpoint(tiny, tmp_path):
    from reid_ray.training.rundir import RunDirectory

    config = tiny()
    RunDirectory.of(config).create(config, {})
    run = load_run(tmp_path / config.name)
    assert run.render() == {}
    with pytest.raises(RunError, match="has no checkpoint yet"):
        run.load_method()
