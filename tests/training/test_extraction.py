"""Features come in the rows' order, whoever extracts which batch."""

import numpy as np
import pytest
import torch
from torch import nn

from reid_ray.training.extraction import assemble, batch_rows, extract


class Bank:
    """Image i is filled with i + 1."""

    def normalized(self, rows):
        return torch.stack([torch.full((3, 4, 2), float(row + 1)) for row in rows])


class Model(nn.Module):
    """Features [mean, batch size]: a batch's own size would show if batches were cut otherwise."""

    def __init__(self, dtype):
        super().__init__()
        self.factor = nn.Parameter(torch.ones((), dtype=dtype))

    def embed(self, images):
        assert not torch.is_grad_enabled()
        assert images.dtype == self.factor.dtype
        means = images.mean((1, 2, 3)) * self.factor
        return torch.stack([means, torch.full_like(means, len(images))], 1)


def test_batches_cover_all_rows_once():
    assert batch_rows(10, 4) == [range(4), range(4, 8), range(8, 10)]
    assert batch_rows(8, 4) == [range(4), range(4, 8)]
    assert batch_rows(0, 4) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_features_are_those_of_the_batches_in_order(dtype, n_threads):
    seen = []
    batches = [range(4, 8), range(0, 4), range(8, 10)]
    device = torch.device("cpu")
    parts = extract(Model(dtype), Bank(), batches, device=device, n_threads=n_threads, on_batch=seen.append)
    assert seen == [4, 4, 2]
    features = assemble(parts)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:, 0], [5, 6, 7, 8, 1, 2, 3, 4, 9, 10])
    np.testing.assert_array_equal(features[:, 1], [4] * 8 + [2] * 2)


def test_nothing_to_extract():
    assert assemble([]).shape == (0, 0)
