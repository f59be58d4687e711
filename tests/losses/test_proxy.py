"""Proxy losses against Eq. 6.5 and 6.7 written as loops; gradients by autograd of the loops."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reid_ray.losses import centroid_loss, cross_camera_loss

DTYPES = [torch.float32, torch.float64]


class Case(NamedTuple):
    features: Tensor
    labels: Tensor
    camids: Tensor
    proxies: Tensor
    proxy_labels: Tensor
    proxy_camids: Tensor


def make_case(seed: int, n_cameras: int = 3, dtype: torch.dtype = torch.float64) -> Case:
    """Ragged: identities with 1 to many images; clusters seen by some of the cameras, in any order."""
    generator = torch.Generator().manual_seed(seed)
    n_clusters, n_images, dim = 5, 14, 6
    labels = torch.randint(n_clusters, (n_images,), generator=generator)
    camids = torch.randint(n_cameras, (n_images,), generator=generator)
    pairs = set(zip(labels.tolist(), camids.tolist(), strict=True))  # each anchor's own proxy exists, as in a run
    drawn = torch.randint(n_cameras, (n_clusters,), generator=generator).tolist()
    pairs |= set(enumerate(drawn))
    ordered = torch.tensor(sorted(pairs, reverse=True))
    return Case(
        3 * torch.randn(n_images, dim, generator=generator, dtype=dtype),
        labels,
        camids,
        torch.randn(len(ordered), dim, generator=generator, dtype=dtype),
        ordered[:, 0],
        ordered[:, 1],
    )


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def assert_same_loss_and_gradient(loss: Tensor, features: Tensor, expected: Tensor, same_features: Tensor) -> None:
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if features.dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert loss.dtype == features.dtype
    torch.testing.assert_close(loss, expected, **tolerance)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(features.grad, same_features.grad, **tolerance)


# Eq. 6.5


def naive_centroid_loss(
    features: Tensor, labels: Tensor, centroids: Tensor, temperature: float, smoothing: float, normalize: bool
) -> Tensor:
    losses = []
    for feature, label in zip(features, labels.tolist(), strict=True):
        anchor = feature / feature.norm() if normalize else feature
        exponents = [(anchor * centroid).sum() / temperature for centroid in centroids]
        log_sum = torch.stack(exponents).exp().sum().log()
        loss = torch.zeros(())
        for cluster, exponent in enumerate(exponents):
            wanted = smoothing / len(centroids) + (1 - smoothing) * (cluster == label)
            loss = loss - wanted * (exponent - log_sum)
        losses.append(loss)
    return torch.stack(losses).mean().to(features.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n_clusters", [1, 5])
def test_centroid_loss(n_clusters: int, smoothing: float, normalize: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(n_clusters)
    features = (3 * torch.randn(7, 6, dtype=dtype)).requires_grad_()
    same_features = features.detach().clone().requires_grad_()
    labels = torch.randint(n_clusters, (7,))
    centroids = torch.randn(n_clusters, 6, dtype=dtype)
    loss = centroid_loss(features, labels, centroids, temperature=0.5, label_smoothing=smoothing, normalize=normalize)
    expected = naive_centroid_loss(same_features, labels, centroids, 0.5, smoothing, normalize)
    assert_same_loss_and_gradient(loss, features, expected, same_features)


def test_centroids_are_used_as_they_are() -> None:
    features, labels, centroids = torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), torch.randn(3, 6)
    settings = {"temperature": 0.5, "label_smoothing": 0.1, "normalize": True}
    assert centroid_loss(features, labels, centroids, **settings) != centroid_loss(
        features, labels, 2 * centroids, **settings
    )


def test_large_features_do_not_overflow() -> None:
    features = torch.full((2, 4), 1e4, requires_grad=True)
    loss = centroid_loss(
        features,
        torch.tensor([0, 1]),
        torch.eye(4) * 50,
        temperature=0.05,
        label_smoothing=0.1,
        normalize=False,
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


# Eq. 6.7


def naive_cross_camera_loss(
    case: Case,
    features: Tensor,
    temperature: float = 0.07,
    n_negatives: int = 50,
    own_camera_positive: bool = True,
    reduction: str = "sum_over_cameras",
    normalization: str = "cosine",
) -> Tensor:
    proxies = case.proxies
    if normalization == "released":
        proxies = torch.stack([proxies[:, d] / proxies[:, d].norm() for d in range(proxies.shape[1])], dim=1)
    per_camera: dict[int, list[Tensor]] = {}
    for feature, label, camid in zip(features, case.labels.tolist(), case.camids.tolist(), strict=True):
        positives, negatives = [], []
        members = zip(proxies, case.proxy_labels.tolist(), case.proxy_camids.tolist(), strict=True)
        for proxy, proxy_label, proxy_camid in members:
            if normalization == "released":
                similarity = (feature / feature.norm() * proxy).sum()
            else:
                similarity = cosine(feature, proxy)
            if proxy_label != label:
                negatives.append(similarity)
            elif own_camera_positive or proxy_camid != camid:
                positives.append(similarity)
        if not positives:
            continue
        hardest = sorted(negatives, key=Tensor.item, reverse=True)[:n_negatives]
        denominator = sum((s / temperature).exp() for s in positives + hardest)
        loss = -sum(((s / temperature).exp() / denominator).log() for s in positives) / len(positives)
        per_camera.setdefault(camid, []).append(loss)
    if not per_camera:
        return features.sum() * 0
    if reduction == "mean":
        return torch.stack([loss for losses in per_camera.values() for loss in losses]).mean()
    return sum(torch.stack(losses).mean() for losses in per_camera.values())


def fast_cross_camera_loss(case: Case, features: Tensor, **changes: object) -> Tensor:
    settings = {
        "temperature": 0.07,
        "n_negatives": 50,
        "own_camera_positive": True,
        "reduction": "sum_over_cameras",
        "normalization": "cosine",
    }
    return cross_camera_loss(features, *case[1:], **(settings | changes))


def compare_cross_camera(case: Case, **changes: object) -> float:
    features = case.features.clone().requires_grad_()
    same_features = case.features.clone().requires_grad_()
    loss = fast_cross_camera_loss(case, features, **changes)
    expected = naive_cross_camera_loss(case, same_features, **changes)
    assert_same_loss_and_gradient(loss, features, expected, same_features)
    return loss.item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_camera_positive", [True, False])
@pytest.mark.parametrize("reduction", ["sum_over_cameras", "mean"])
@pytest.mark.parametrize("normalization", ["cosine", "released"])
@pytest.mark.parametrize("n_negatives", [1, 4, 50])
def test_cross_camera_loss(
    n_negatives: int, normalization: str, reduction: str, own_camera_positive: bool, dtype: torch.dtype
) -> None:
    for seed in range(3):
        compare_cross_camera(
            make_case(seed, dtype=dtype),
            n_negatives=n_negatives,
            normalization=normalization,
            reduction=reduction,
            own_camera_positive=own_camera_positive,
        )


def test_anchors_without_a_positive_are_not_counted() -> None:
    """With the own camera left out, some clusters of the random cases are seen by that camera only."""
    case = make_case(0)
    own = case.labels[:, None] == case.proxy_labels
    others = own & (case.camids[:, None] != case.proxy_camids)
    assert 0 < (others.sum(1) == 0).sum() < len(case.labels)
    for reduction in ("sum_over_cameras", "mean"):
        compare_cross_camera(case, own_camera_positive=False, reduction=reduction)


def test_one_camera() -> None:
    case = make_case(1, n_cameras=1)
    by_camera = compare_cross_camera(case, reduction="sum_over_cameras")
    assert by_camera == pytest.approx(compare_cross_camera(case, reduction="mean"))
    assert compare_cross_camera(case, own_camera_positive=False) == 0


@pytest.mark.parametrize("n_cameras", [1, 3])
def test_one_cluster_has_no_negatives(n_cameras: int) -> None:
    case = make_case(2, n_cameras)._replace(labels=torch.zeros(14, dtype=torch.int64))
    case = case._replace(proxy_labels=torch.zeros_like(case.proxy_labels))
    compare_cross_camera(case)
    compare_cross_camera(case, own_camera_positive=False)


def test_no_proxies_is_a_loss_of_zero_that_can_be_differentiated() -> None:
    case = make_case(0)
    case = case._replace(proxies=torch.zeros(0, 6), proxy_labels=case.labels[:0], proxy_camids=case.camids[:0])
    features = case.features.clone().requires_grad_()
    loss = fast_cross_camera_loss(case, features)
    loss.backward()
    assert loss.item() == 0
    assert not features.grad.any()


def test_ties_among_negatives_do_not_change_the_loss() -> None:
    """Three equal negatives, of which two are taken: whichever they are, value and gradient are the same."""
    case = make_case(3)
    copies = case.proxies[:1].repeat(3, 1)
    case = case._replace(
        proxies=torch.cat([copies, case.proxies[1:]]),
        proxy_labels=torch.cat([torch.full((3,), 4), case.proxy_labels[1:]]),
        proxy_camids=torch.cat([torch.arange(3), case.proxy_camids[1:]]),
    )
    for n_negatives in (1, 2, 3):
        compare_cross_camera(case, n_negatives=n_negatives)


def test_scale_of_features_and_proxies_does_not_matter_with_cosine() -> None:
    case = make_case(4)
    scaled = case._replace(features=5 * case.features, proxies=case.proxies * torch.rand(len(case.proxies), 1))
    expected = fast_cross_camera_loss(case, case.features)
    torch.testing.assert_close(fast_cross_camera_loss(scaled, scaled.features), expected)


def test_autocast_does_not_round_the_similarities() -> None:
    case = make_case(5, dtype=torch.float32)
    expected = fast_cross_camera_loss(case, case.features)
    with torch.autocast("cpu", torch.bfloat16):
        actual = fast_cross_camera_loss(case, case.features)
    torch.testing.assert_close(actual, expected)
