"""Inception's features with a stand-in network of the same contract; the real one if REID_RAY_INCEPTION names it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reid_ray.errors import DataError, WeightsError
from reid_ray.evaluation import inception_features, load_inception
from reid_ray.evaluation.inception import prepared


class StandIn(nn.Module):
    """Mean, largest and smallest value of an image of 299×299."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2] == images.shape[3] == 299
        flat = images.flatten(1)
        return torch.stack([flat.mean(1), flat.amax(1), flat.amin(1)], dim=1)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # TorchScript is deprecated
        network = torch.jit.script(StandIn())
    network.save(str(tmp_path / "inception.pt"))
    return tmp_path / "inception.pt"


def pictures(n: int, size: tuple[int, int] = (64, 32)) -> Tensor:
    return torch.randint(0, 256, (n, 3, *size), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


def test_features_of_all_batches(stand_in: Path) -> None:
    with warnings.catch_warnings(action="error"):
        network = load_inception(str(stand_in))
    images = pictures(5)
    found = inception_features(iter([images[:3], images[3:], pictures(2, (40, 40))]), network)
    assert found.dtype == np.float32
    assert found.shape == (7, 3)
    np.testing.assert_allclose(found[:5], StandIn()(prepared(images)).numpy(), rtol=1e-6)


def test_images_are_prepared_as_the_network_takes_them() -> None:
    flat = torch.tensor([0, 64, 128, 255], dtype=torch.uint8)[:, None, None, None].expand(4, 3, 20, 10)
    expected = torch.tensor([-1.0, -0.5, 0.0, 0.9921875])[:, None, None, None].expand(4, 3, 299, 299)
    torch.testing.assert_close(prepared(flat), expected)
    ramp = torch.arange(0, 200, 2, dtype=torch.uint8).expand(1, 3, 100, 100)
    column = (torch.arange(299) + 0.5) * 100 / 299 - 0.5  # in the small image, pixel centres at whole numbers
    torch.testing.assert_close(prepared(ramp)[0, 0, 7], (2 * column.clamp(0, 99) - 128) / 128, rtol=0, atol=1e-4)
    exact = pictures(1, (299, 299))
    torch.testing.assert_close(prepared(exact), (exact.float() - 128) / 128)


def test_no_images(stand_in: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        inception_features([], load_inception(stand_in))


def test_invalid_network_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no Inception file .*none\.pt; FID needs a TorchScript"):
        load_inception(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_bytes(b"weights")
    torch.save({"a": torch.ones(1)}, tmp_path / "state.pt")
    for name in ("text.pt", "state.pt"):
        with pytest.raises(WeightsError, match=rf"Cannot read .*{name} as a TorchScript") as error:
            load_inception(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.skipif("REID_RAY_INCEPTION" not in os.environ, reason="REID_RAY_INCEPTION names no file")
def test_the_published_network() -> None:
    network = load_inception(os.environ["REID_RAY_INCEPTION"])
    features = network(torch.zeros(1, 3, 299, 299))
    assert features.shape == (1, 2048)
    assert float(features.sum()) == pytest.approx(201.387, abs=1e-2)
    torch.testing.assert_close(features[0, :4].tolist(), [0.492669, 0.028346, 0.105969, 0.008151], rtol=0, atol=1e-3)
