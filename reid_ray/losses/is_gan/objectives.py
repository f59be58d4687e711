"""IS-GAN's remaining losses and the weights of all losses (Eq. 1, 5, 7 and 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CrossEntropyReduction = Literal["mean", "sum"]
KlReduction = Literal["released", "paper"]


def part_identity_loss(logits: Tensor, labels: Tensor, *, reduction: CrossEntropyReduction = "mean") -> Tensor:
    """L_R (Eq. 1): cross-entropy of the part classifiers, mean over the batch, without label smoothing.

    Args:
        logits: [K, B, C], of K parts, from `PartClassifiers`.
        labels: int64 [B].
        reduction: over parts. `mean` is the released code, whose weight of 20 produced the tables; `sum` is Eq. 1, K
            times as large.
    """
    n_parts = len(logits)
    mean = F.cross_entropy(logits.flatten(0, 1), labels.repeat(n_parts))
    return mean * n_parts if reduction == "sum" else mean


def unrelated_kl_loss(mean: Tensor, log_variance: Tensor, *, reduction: KlReduction = "released") -> Tensor:
    """L_U (Eq. 5): KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − ln σ² − 1) of the identity-unrelated parts.

    Args:
        mean: μ [B, K, u], of the *global* batch: the released form is a sum over it.
        log_variance: ln σ² [B, K, u].
        reduction: `released`: sum over batch and dimensions, mean over parts. `paper`: mean over the batch, sum over
            parts and dimensions. With 16 images and 8 parts the former is twice the latter.
    """
    divergence = (mean.square() + log_variance.exp() - log_variance - 1) / 2
    n_images, n_parts = mean.shape[:2]
    return divergence.sum() / (n_parts if reduction == "released" else n_images)


def class_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """L_C (Eq. 7): cross-entropy of the class head, mean over each set of images, summed over the sets.

    The discriminator's sets are the real images and the (detached) generated ones, the generator's are the generated
    ones. The released code uses all three; Eq. 7 leaves out `auto`: to follow it, pass the other two.

    Args:
        logits: of each set [B, C].
        labels: int64 [B], of the images that are imitated.
    """
    return torch.stack([F.cross_entropy(of_set, labels) for of_set in logits]).sum()


@dataclass(frozen=True)
class IsGanWeights:
    """Weights λ of the losses of encoders and generator (Eq. 8), and of L_C for the discriminator.

    Attributes:
        identity: λ_R, of L_R as a mean over parts.
        kl: λ_U, of L_U in its released form.
        shuffling: λ_S.
        part_shuffling: λ_PS.
        domain: λ_D.
        classes: λ_C.
        discriminator_classes: of L_C in the discriminator's loss: ½ in the released code; the paper has λ_C.
    """

    identity: float = 20.0
    kl: float = 0.01
    shuffling: float = 10.0
    part_shuffling: float = 10.0
    domain: float = 1.0
    classes: float = 2.0
    discriminator_classes: float = 0.5

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of losses by these names, such as `{"identity": L_R, "kl": L_U}`."""
        return torch.stack([getattr(self, name) * loss for name, loss in terms.items()]).sum()


STAGE_WEIGHTS = {
    "identity": IsGanWeights(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "disentangle": IsGanWeights(identity=0.0, kl=0.001),
    "joint": IsGanWeights(),
}
"""Epochs of the three stages (§4.1): 300 for backbone and E_R, 200 for E_U, G and D, 100 for all."""
