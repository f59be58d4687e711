"""Pictures of what a method generates: which images, when they are drawn, and that training does not notice."""

import numpy as np
import pytest
import torch
from one_layer import OneLayer, run_together
from small_runs import assert_bit_equal, newest_state
from torchvision.io import ImageReadMode, decode_image

from reid_ray.errors import MethodError
from reid_ray.methods import LabelSpec
from reid_ray.models import make_teacher
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.rendering import GAP, picture, write_pictures

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Drawing(OneLayer):
    """Renders the images that it is given, the first in each row negated."""

    @classmethod
    def stages(cls, config):
        return (cls.stage_of("main", config.training, LabelSpec("ground_truth"), renders=True),)

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.student = torch.nn.Linear(3, 8)
        self.teacher = make_teacher(self.student)
        self.rendered = []

    def render(self, stage, batch):
        assert not any(module.training for module in self.modules.values())
        assert not torch.is_grad_enabled()
        self.rendered.append(batch)
        images = batch["train"].views["weak"].unflatten(0, (-1, 2)).clone()
        images[:, 0] *= -1
        return {"pairs": images, "first-row": images[:1]}


def pictures_of(directory):
    return sorted(file.name for file in (directory.path / "generated").glob("*"))


def test_a_picture_is_its_images_one_by_one():
    """Denormalised, clipped, with white between them and where a number is none."""
    rng = np.random.default_rng(0)
    grid = rng.normal(0, 2, (2, 3, 3, 5, 4)).astype(np.float32)
    grid[1, 2] = np.nan
    found = picture(torch.from_numpy(grid)).numpy()
    assert found.shape == (3, 2 * 5 + GAP, 3 * 4 + 2 * GAP)
    expected = np.full(found.shape, 255)
    for row in range(2):
        for column in range(3):
            if np.isnan(grid[row, column]).any():
                continue
            for channel in range(3):
                colours = 255 * np.clip(grid[row, column, channel] * STD[channel] + MEAN[channel], 0, 1)
                top, left = row * (5 + GAP), column * (4 + GAP)
                expected[channel, top : top + 5, left : left + 4] = np.rint(colours)
    assert np.abs(found.astype(int) - expected).max() <= 1  # halves may be rounded either way
    assert (found[:, -5:, -4:] == 255).all()


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 2, 1, 5, 4)])
def test_what_is_no_grid_is_refused(shape):
    with pytest.raises(MethodError, match=r"must be \[rows, columns, 3, H, W\]"):
        picture(torch.zeros(shape))


def test_a_picture_needs_a_name_that_a_file_can_have(trainer):
    directory = trainer().directory
    with pytest.raises(MethodError, match=r"named '\.\./x'; use letters"):
        write_pictures(directory, "main", 0, {"../x": torch.zeros(3, 2, 2, dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("every", "epochs"),
    [("1", [1, 2, 3]), ("2", [2, 3]), ("0", [3]), ("null", [])],
)
def test_pictures_are_drawn_when_an_evaluation_is_due(trainer, method, every, epochs):
    method(Drawing)
    made = trainer("training.epochs=3", "training.iterations=1", f"evaluation.every={every}")
    made.run()
    expected = [f"main-epoch-{epoch:03d}-{name}.png" for epoch in epochs for name in ("first-row", "pairs")]
    assert pictures_of(made.directory) == expected


def test_always_the_same_images_of_the_same_identities(trainer, method):
    method(Drawing)
    made = trainer("training.epochs=2", "training.iterations=1", "evaluation.every=1")
    made.run()
    first, second = (batch["train"] for batch in made.method.rendered)
    assert torch.equal(first.views["weak"], second.views["weak"])
    assert made.method.rendered[0].key == made.method.rendered[1].key
    labels = first.labels.view(-1, 2)
    assert (labels[:, 0] == labels[:, 1]).all()
    assert len(set(first.rows.tolist())) == 16  # of 8 identities two different images each
    table = made._tables["data"]
    numbers = np.unique(table.pids, return_inverse=True)[1]
    assert first.labels.tolist() == numbers[first.rows].tolist()
    cache = made._caches["data"]
    for row, view in zip(first.rows.tolist(), first.views["weak"].numpy(), strict=True):
        plain = cache.image(row).numpy() / 255
        np.testing.assert_allclose(view, (plain - MEAN[:, None, None]) / STD[:, None, None], atol=1e-5)
    other = trainer("name=other", "seed=3", "training.epochs=1", "training.iterations=1")
    other.run()
    assert other.method.rendered[0]["train"].rows.tolist() != first.rows.tolist()


def test_what_is_written_is_what_was_rendered(trainer, method):
    method(Drawing)
    made = trainer("training.epochs=1", "training.iterations=1")
    made.run()
    file = made.directory.generated_file("main", 1, "pairs")
    found = decode_image(str(file), ImageReadMode.RGB)
    images = made.method.rendered[0]["train"].views["weak"].unflatten(0, (-1, 2)).clone()
    images[:, 0] *= -1
    assert torch.equal(found, picture(images))


def test_clusters_give_images_at_random_without_labels(trainer, method):
    class OnClusters(Drawing):
        @classmethod
        def stages(cls, config):
            return (cls.stage_of("main", config.training, renders=True),)

    method(OnClusters)
    made = trainer("training.epochs=1", "training.iterations=1")
    made.run()
    (batch,) = made.method.rendered
    assert len(set(batch["train"].rows.tolist())) == 16
    assert (batch["train"].labels == -1).all()


def test_rendering_changes_nothing_and_one_worker_does_it(trainer, method):
    method(Drawing)
    options = ("training.epochs=2", "training.iterations=2")
    drawn = trainer("name=drawn", "evaluation.every=1", *options)
    drawn.run()
    plain = trainer("name=plain", "evaluation.every=null", *options)
    plain.run()
    assert_bit_equal(newest_state(plain.directory)["modules"], newest_state(drawn.directory)["modules"])
    several = ("name=several", "runtime.n_workers=2", "evaluation.every=1", *options)
    together = [trainer(*several, context=DistributedContext(rank, 2)) for rank in range(2)]
    run_together(together)
    assert [len(made.method.rendered) for made in together] == [2, 0]
    for name in pictures_of(drawn.directory):
        assert (drawn.directory.path / "generated" / name).read_bytes() == (
            together[0].directory.path / "generated" / name
        ).read_bytes()
