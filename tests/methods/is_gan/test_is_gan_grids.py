"""IS-GAN's figures: which code of whom makes which image of a grid."""

import pytest
import torch

from reid_ray.methods.is_gan.grids import Codes, part_mask, render_grids

STRIPES = (1, 2, 3)
K = 8
LABELS = [4, 4, 2, 2, 7, 7, 0, 0, 5]
PEOPLE = [0, 2, 4, 6, 8]  # the first image of each


def codes():
    """φ_R of image i is i in all parts, φ_U is 10·i."""
    i = torch.arange(float(len(LABELS)))
    return Codes(i[:, None, None].expand(-1, K, 2), 10 * i[:, None, None].expand(-1, K, 3), torch.eye(9)[LABELS])


IMAGES = torch.arange(float(len(LABELS)))[:, None, None, None].expand(-1, 3, 2, 2) + 1000


def generate(given):
    """An image whose three channels tell the codes: mean of φ_R, of φ_U, and the class by the mean of its numbers."""
    classes = given.classes @ torch.arange(9.0)
    told = torch.stack([given.identity.mean((1, 2)), given.unrelated.mean((1, 2)), classes], dim=1)
    return told[:, :, None, None].expand(-1, -1, 2, 2)


@pytest.fixture
def grids():
    return render_grids(IMAGES, codes(), LABELS, generate, STRIPES)


def told(image):
    return image[:, 0, 0].tolist()


def test_interpolation_varies_one_code_and_keeps_the_other(grids):
    grid = grids["interpolation"]
    assert grid.shape == (4, 7, 3, 2, 2)  # two pairs, two rows each
    for pair, (a, b) in enumerate(((0, 2), (4, 6))):
        for row in (2 * pair, 2 * pair + 1):
            assert told(grid[row, 0]) == [1000 + a] * 3
            assert told(grid[row, 6]) == [1000 + b] * 3
        for column in range(5):
            t = column / 4
            mixed = (1 - t) * a + t * b
            label = (1 - t) * LABELS[a] + t * LABELS[b]
            assert told(grid[2 * pair, 1 + column]) == pytest.approx([mixed, 10 * a, label])
            assert told(grid[2 * pair + 1, 1 + column]) == pytest.approx([a, 10 * mixed, LABELS[a]])


def test_everybody_as_everybody(grids):
    grid = grids["swap"]
    assert grid.shape == (6, 6, 3, 2, 2)
    assert grid[0, 0].isnan().all()
    for i, person in enumerate(PEOPLE):
        assert told(grid[0, 1 + i]) == told(grid[1 + i, 0]) == [1000 + person] * 3
        for j, other in enumerate(PEOPLE):
            assert told(grid[1 + i, 1 + j]) == pytest.approx([person, 10 * other, LABELS[person]])


def test_parts_are_exchanged_between_two_people(grids):
    """Of eight parts two are exchanged, so a mean moves by a quarter of the difference."""
    grid = grids["part-swap"]
    assert grid.shape == (2, 10, 3, 2, 2)
    for row, (a, b) in enumerate(((0, 2), (4, 6))):
        assert [told(grid[row, i])[0] for i in range(2)] == [1000 + a, 1000 + b]
        quarter = (b - a) / 4
        for column in (2, 4):  # identity-related: upper, lower
            assert told(grid[row, column]) == pytest.approx([a + quarter, 10 * a, LABELS[a]])
            assert told(grid[row, column + 1]) == pytest.approx([b - quarter, 10 * b, LABELS[b]])
        for column in (6, 8):  # identity-unrelated
            assert told(grid[row, column]) == pytest.approx([a, 10 * (a + quarter), LABELS[a]])
            assert told(grid[row, column + 1]) == pytest.approx([b, 10 * (b - quarter), LABELS[b]])


def test_upper_and_lower_parts():
    """In the order g1 · g2, p2₀, p2₁ · g3, p3₀, p3₁, p3₂."""
    assert part_mask(STRIPES, "upper").int().tolist() == [0, 0, 1, 0, 0, 1, 0, 0]
    assert part_mask(STRIPES, "lower").int().tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert part_mask((2,), "lower").int().tolist() == [0, 0, 1]
    assert part_mask((1,), "upper").int().tolist() == [0]


def test_one_person_makes_no_grid():
    images, one = IMAGES[:2], Codes(*(code[:2] for code in codes()))
    assert render_grids(images, one, [4, 4], generate, STRIPES) == {}
