"""Identity shuffling: who is whose positive, which parts are taken, and the losses pixel by pixel."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.errors import ConfigError
from reid_ray.losses.is_gan import (
    draw_part_mask,
    draw_positives,
    identity_shuffling_loss,
    part_shuffling_loss,
    shuffle_parts,
)

LABELS = {
    "pairs of four": [0, 0, 0, 0, 1, 1, 1, 1],
    "ragged and shuffled": [3, 7, 3, 3, 9, 7, 3, 9, 9],
    "singletons": [4, 5, 6],
    "one identity": [2, 2, 2],
    "one image": [1],
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pairs", ["per_image", "disjoint"])
@pytest.mark.parametrize("kind", list(LABELS))
def test_positives_are_other_images_of_the_identity(kind: str, pairs: str) -> None:
    labels = LABELS[kind]
    for seed in range(20):
        positives = draw_positives(torch.tensor(labels), generator(seed), pairs=pairs).tolist()
        alone = Counter(labels[i] for i, positive in enumerate(positives) if positive == i)
        for i, positive in enumerate(positives):
            assert labels[positive] == labels[i]
            if pairs == "disjoint":
                assert positives[positive] == i
        for label, n in Counter(labels).items():
            left_over = n % 2 if pairs == "disjoint" else int(n == 1)
            assert alone[label] == left_over


def test_positives_are_drawn_evenly_and_for_each_image() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    counts = Counter()
    asymmetric = 0
    for seed in range(3000):
        positives = draw_positives(labels, generator(seed)).tolist()
        counts.update(enumerate(positives))
        asymmetric += any(positives[positives[i]] != i for i in range(3))
    for i, j in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
        assert counts[i, j] / 3000 == pytest.approx(0.5, abs=0.04)
    assert asymmetric == 3000  # of three images at least one relation is not mutual


def test_disjoint_pairs_are_drawn_evenly() -> None:
    counts = Counter(
        draw_positives(torch.zeros(4), generator(seed), pairs="disjoint")[0].item() for seed in range(3000)
    )
    assert sorted(counts) == [1, 2, 3]
    assert all(n / 3000 == pytest.approx(1 / 3, abs=0.04) for n in counts.values())


@pytest.mark.parametrize("n_parts", [2, 3, 8])
def test_masks_are_never_all_or_nothing_and_evenly_drawn(n_parts: int) -> None:
    rng = generator()
    n = 400 * (2**n_parts - 2)
    counts = Counter(tuple(draw_part_mask(n_parts, rng).tolist()) for _ in range(min(n, 4000)))
    assert (True,) * n_parts not in counts
    assert (False,) * n_parts not in counts
    if n_parts < 8:
        assert len(counts) == 2**n_parts - 2
        expected = sum(counts.values()) / len(counts)
        assert all(count == pytest.approx(expected, rel=0.2) for count in counts.values())
    share = sum(sum(mask) * count for mask, count in counts.items()) / sum(counts.values())
    assert share == pytest.approx(n_parts / 2, rel=0.05)


def test_the_released_code_never_shuffles() -> None:
    own, positive = torch.randn(2, 8, 3), torch.randn(2, 8, 3)
    mask = draw_part_mask(8, generator(), part_shuffle="none")
    assert not mask.any()
    assert torch.equal(shuffle_parts(own, positive, mask), own)


def test_one_part_cannot_be_shuffled() -> None:
    with pytest.raises(ConfigError, match="1 part cannot be shuffled"):
        draw_part_mask(1, generator())
    assert not draw_part_mask(1, generator(), part_shuffle="none").any()


@settings(max_examples=5)
@given(seed=SEEDS)
def test_parts_come_from_the_positive_where_the_mask_says(seed: int) -> None:
    rng = generator(seed)
    parts = torch.randn(6, 8, 3, generator=rng)
    positives = draw_positives(torch.tensor([0, 0, 1, 1, 1, 1]), rng, pairs="disjoint")
    mask = draw_part_mask(8, rng)
    shuffled = shuffle_parts(parts, parts[positives], mask)
    for i in range(6):
        for k in range(8):
            assert torch.equal(shuffled[i, k], parts[positives[i] if mask[k] else i, k])
            of_pair = sorted([shuffled[i, k].tolist(), shuffled[positives[i], k].tolist()])
            assert of_pair == sorted([parts[i, k].tolist(), parts[positives[i], k].tolist()])


def mean_absolute(x: torch.Tensor, y: torch.Tensor) -> float:
    pairs = list(zip(x.flatten().tolist(), y.flatten().tolist(), strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def test_reconstruction_losses() -> None:
    auto, swap, part, target = (torch.randn(2, 3, 4, 2, dtype=torch.float64) for _ in range(4))
    expected = mean_absolute(auto, target) + mean_absolute(swap, target)
    assert identity_shuffling_loss(auto, swap, target).item() == pytest.approx(expected)
    assert part_shuffling_loss(part, target).item() == pytest.approx(mean_absolute(part, target))
    assert identity_shuffling_loss(target, target, target).item() == 0
