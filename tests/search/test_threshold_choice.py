"""`choose_threshold` against loops over pairs."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.errors import DataError
from reid_ray.search import choose_threshold


def features_of(groups, rng, noise=0.6):
    """Near unit norm, in steps of 1/64: their products are exact in float32, in any order of summation."""
    centres = {group: rng.standard_normal(8) for group in set(groups.tolist())}
    values = np.array([centres[group] for group in groups.tolist()]) + noise * rng.standard_normal((len(groups), 8))
    return (np.round(64 * values / np.linalg.norm(values, axis=1, keepdims=True)) / 64).astype(np.float32)


def choose(features, groups, camids, rate, **options):
    return choose_threshold(features, groups, camids, false_accept=rate, origin="labels", data="test", **options)


@settings(max_examples=4)
@given(seed=SEEDS)
@pytest.mark.parametrize("cameras", [0, 1, 3])
def test_rates_equal_those_of_a_loop(seed, cameras):
    """Unknown people are left out, and so are pairs of one person by one known camera; duplicates tie."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1, 9, 60)
    camids = rng.integers(0, cameras, 60) if cameras else np.full(60, -1)
    features = features_of(groups, rng)
    features[1::7] = features[0]
    chosen = choose(features, groups, camids, 0.05)
    same, different = [], []
    for i, j in combinations(range(60), 2):
        if groups[i] < 0 or groups[j] < 0:
            continue
        similarity = np.float32(features[i] @ features[j])
        if groups[i] != groups[j]:
            different.append(similarity)
        elif camids[i] != camids[j] or camids[i] == -1:
            same.append(similarity)
    assert (chosen.n_different, chosen.n_same) == (len(different), len(same))
    accepted = np.mean(np.array(different) >= chosen.value)
    assert chosen.false_accept == accepted <= 0.05
    below = np.nextafter(np.float32(chosen.value), np.float32(-1))
    assert np.mean(np.array(different) >= below) > 0.05  # no smaller threshold would do
    if same:
        assert chosen.true_accept == np.mean(np.array(same) >= chosen.value)
    else:
        assert chosen.true_accept is None


def test_of_many_images_whole_people_are_chosen():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(50), 4)
    features = features_of(groups, rng)
    chosen = choose(features, groups, np.tile(np.arange(4), 50), 0.1, max_images=40)
    assert chosen.n_same == 10 * 6
    assert chosen.n_different == 40 * 39 // 2 - 60
    assert chosen == choose(features, groups, np.tile(np.arange(4), 50), 0.1, max_images=40)


def test_a_rate_that_cannot_be_measured():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 2)
    features, camids = features_of(groups, rng), np.tile([0, 1], 5)
    with pytest.raises(DataError, match="40 pairs of different people, too few"):
        choose(features, groups, camids, 0.001)
    for rate in (0, 1, 2):
        with pytest.raises(DataError, match="above 0 and below 1"):
            choose(features, groups, camids, rate)


def test_the_description_says_what_was_measured():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(9), 4)
    features, camids = features_of(groups, rng), np.tile([0, 1], 18)
    text = choose(features, groups, camids, 0.1).describe()
    assert "held-out identities of test" in text
    assert "pairs of different people" in text
    clusters = choose_threshold(features, groups, camids, false_accept=0.1, origin="clusters", data="index")
    assert "not from identities" in clusters.describe()
