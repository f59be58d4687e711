"""CAP's losses and update against loops over cameras, images and proxies."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reid_ray.losses import inter_camera_loss, intra_camera_loss, updated_proxies

DTYPES = [torch.float32, torch.float64]


class Case(NamedTuple):
    features: Tensor
    labels: Tensor
    camids: Tensor
    proxies: Tensor
    proxy_labels: Tensor
    proxy_camids: Tensor


def make_case(
    seed: int, n_cameras: int = 3, *, with_strangers: bool = False, dtype: torch.dtype = torch.float64
) -> Case:
    """Ragged batches; some clusters are seen by some cameras only. Strangers are outliers and of no camera."""
    generator = torch.Generator().manual_seed(seed)
    n_clusters, n_images, dim = 4, 14, 6
    labels = torch.randint(n_clusters, (n_images,), generator=generator)
    camids = torch.randint(n_cameras, (n_images,), generator=generator)
    pairs = set(zip(labels.tolist(), camids.tolist(), strict=True)) | {(n_clusters, 0)}
    if with_strangers:
        labels[::5] = -1
        camids[1::5] = -1
    ordered = torch.tensor(sorted(pairs, key=lambda pair: pair[::-1]))
    proxies = torch.randn(len(ordered), dim, generator=generator, dtype=dtype)
    features = 3 * torch.randn(n_images, dim, generator=generator, dtype=dtype)
    proxies = proxies / proxies.norm(dim=1, keepdim=True)
    return Case(features, labels, camids, proxies, ordered[:, 0], ordered[:, 1])


def unit(feature: Tensor) -> Tensor:
    return feature / feature.norm()


def own_proxy(case: Case, label: int, camid: int) -> int | None:
    pairs = list(zip(case.proxy_labels.tolist(), case.proxy_camids.tolist(), strict=True))
    return pairs.index((label, camid)) if (label, camid) in pairs else None


def naive_intra(case: Case, features: Tensor, temperature: float) -> Tensor:
    total = features.sum() * 0
    for camera in set(case.camids.tolist()):
        of_camera = [m for m, camid in enumerate(case.proxy_camids.tolist()) if camid == camera]
        losses = []
        for feature, label, camid in zip(features, case.labels.tolist(), case.camids.tolist(), strict=True):
            own = own_proxy(case, label, camid)
            if camid != camera or own is None:
                continue
            exponents = {m: (unit(feature) @ case.proxies[m] / temperature).exp() for m in of_camera}
            losses.append(-(exponents[own] / sum(exponents.values())).log())
        if losses:
            total = total + sum(losses) / len(losses)
    return total


def naive_inter(case: Case, features: Tensor, temperature: float, n_negatives: int) -> Tensor:
    total = features.sum() * 0
    for camera in set(case.camids.tolist()):
        losses = []
        for feature, label, camid in zip(features, case.labels.tolist(), case.camids.tolist(), strict=True):
            if camid != camera:
                continue
            logits = [unit(feature) @ proxy / temperature for proxy in case.proxies]
            positives = [s for s, other in zip(logits, case.proxy_labels.tolist(), strict=True) if other == label]
            negatives = [s for s, other in zip(logits, case.proxy_labels.tolist(), strict=True) if other != label]
            if not positives:
                continue
            candidates = positives + sorted(negatives, key=Tensor.item)[-n_negatives:]
            denominator = sum(s.exp() for s in candidates)
            losses.append(-sum((s.exp() / denominator).log() for s in positives) / len(positives))
        if losses:
            total = total + sum(losses) / len(losses)
    return total


def naive_update(case: Case, momentum: float) -> Tensor:
    updated = case.proxies.clone()
    for feature, label, camid in zip(case.features, case.labels.tolist(), case.camids.tolist(), strict=True):
        own = own_proxy(case, label, camid)
        if own is not None:
            updated[own] = unit(momentum * updated[own] + (1 - momentum) * unit(feature))
    return updated


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_strangers", [False, True])
@pytest.mark.parametrize("n_cameras", [1, 3, 6])
def test_losses_and_gradients(n_cameras: int, with_strangers: bool, dtype: torch.dtype) -> None:
    for seed in range(3):
        case = make_case(seed, n_cameras, with_strangers=with_strangers, dtype=dtype)
        for n_negatives in (None, 3, 50):
            features = case.features.clone().requires_grad_()
            same_features = case.features.clone().requires_grad_()
            if n_negatives is None:
                loss = intra_camera_loss(features, *case[1:], temperature=0.07)
                expected = naive_intra(case, same_features, 0.07)
            else:
                loss = inter_camera_loss(features, *case[1:], temperature=0.07, n_negatives=n_negatives)
                expected = naive_inter(case, same_features, 0.07, n_negatives)
            loss.backward()
            expected.backward()
            assert loss > 0
            assert loss.dtype == dtype
            torch.testing.assert_close(loss, expected, **tolerance(dtype))
            torch.testing.assert_close(features.grad, same_features.grad, **tolerance(dtype))


def test_intra_gradient_by_finite_differences() -> None:
    case = make_case(1, with_strangers=True)
    features = case.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: intra_camera_loss(f, *case[1:], temperature=0.5), features)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_strangers", [False, True])
@pytest.mark.parametrize("n_cameras", [1, 3, 6])
def test_update(n_cameras: int, with_strangers: bool, dtype: torch.dtype) -> None:
    for seed in range(3):
        case = make_case(seed, n_cameras, with_strangers=with_strangers, dtype=dtype)
        before = case.proxies.clone()
        found = updated_proxies(*case, momentum=0.2)
        torch.testing.assert_close(found, naive_update(case, 0.2), **tolerance(dtype))
        assert torch.equal(case.proxies, before)
        assert (found != before).any()


def test_images_of_unknown_camera_and_outliers_alone_change_nothing() -> None:
    case = make_case(0)
    for case_without in (
        case._replace(camids=torch.full_like(case.camids, -1)),
        case._replace(labels=torch.full_like(case.labels, -1)),
    ):
        features = case.features.clone().requires_grad_()
        loss = intra_camera_loss(features, *case_without[1:], temperature=0.07)
        loss.backward()
        assert loss.item() == 0
        assert not features.grad.any()
        assert torch.equal(updated_proxies(*case_without, momentum=0.2), case.proxies)


def test_no_proxies() -> None:
    case = make_case(0)
    case = case._replace(proxies=torch.zeros(0, 6), proxy_labels=case.labels[:0], proxy_camids=case.camids[:0])
    features = case.features.clone().requires_grad_()
    loss = intra_camera_loss(features, *case[1:], temperature=0.07)
    loss = loss + inter_camera_loss(features, *case[1:], temperature=0.07, n_negatives=50)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()
    assert updated_proxies(*case, momentum=0.2).shape == (0, 6)
