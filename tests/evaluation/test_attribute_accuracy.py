"""Accuracy per attribute against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reid_ray.errors import DataError
from reid_ray.evaluation import AttributeAccuracy, attribute_accuracies, mean_accuracy


def naive(predicted, values, reference):
    known = [i for i, value in enumerate(values) if value != -1]
    counts: dict[int, int] = {}
    for value in reference:
        if value != -1:
            counts[value] = counts.get(value, 0) + 1
    if not counts or not known:
        return None
    commonest = min(value for value, n in counts.items() if n == max(counts.values()))
    right = sum(predicted[i] == values[i] for i in known) / len(known)
    return right, sum(values[i] == commonest for i in known) / len(known), commonest, len(known)


@pytest.mark.parametrize("with_reference", [False, True])
def test_equals_counting(with_reference: bool):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        predicted, values = rng.integers(0, 3, (9, 4)), rng.integers(-1, 3, (9, 4))
        reference = rng.integers(-1, 3, (7, 4)) if with_reference else None
        found = attribute_accuracies(predicted, values, list("abcd"), reference=reference)
        of_all = values if reference is None else reference
        for m, each in enumerate(found):
            expected = naive(*(array[:, m].tolist() for array in (predicted, values, of_all)))
            assert each.name == "abcd"[m]
            if expected is not None:
                assert (each.accuracy, each.baseline, each.commonest, each.n_known) == pytest.approx(expected)


def test_unknown_attributes_are_not_counted():
    values = np.array([[1, -1, 0], [0, -1, 0], [1, -1, -1]])
    found = attribute_accuracies(np.array([[1, 0, 0], [1, 0, 1], [1, 0, 1]]), values, ["hat", "bag", "hair"])
    hat, bag, hair = found
    assert hat == AttributeAccuracy("hat", 2 / 3, 2 / 3, 1, 3)
    assert hair == AttributeAccuracy("hair", 0.5, 1.0, 0, 2)
    assert (bag.commonest, bag.n_known) == (-1, 0)
    assert math.isnan(bag.accuracy)
    assert math.isnan(bag.baseline)
    assert mean_accuracy(found) == pytest.approx(((2 / 3 + 0.5) / 2, (2 / 3 + 1) / 2))
    assert all(math.isnan(value) for value in mean_accuracy([bag]))


def test_an_attribute_that_the_reference_lacks_has_no_baseline():
    (found,) = attribute_accuracies(np.array([[1]]), np.array([[1]]), ["hat"], reference=np.array([[-1]]))
    assert found.accuracy == 1
    assert math.isnan(found.baseline)
    assert all(math.isnan(value) for value in mean_accuracy([found]))


@pytest.mark.parametrize(
    ("predicted", "values", "names", "reference"),
    [((3, 2), (4, 2), 2, None), ((3, 2), (3, 2), 3, None), ((3,), (3,), 3, None), ((3, 2), (3, 2), 2, (5, 1))],
)
def test_mismatched_shapes_are_refused(predicted, values, names, reference):
    with pytest.raises(DataError, match="attributes"):
        attribute_accuracies(
            np.zeros(predicted, np.int64),
            np.zeros(values, np.int64),
            ["a"] * names,
            reference=None if reference is None else np.zeros(reference, np.int64),
        )
