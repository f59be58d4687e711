"""Triplet swap reconstruction (DG-VAE, Eq. 12 to 15) and the weights of all losses (Eq. 9, 18 and 19).

For each triplet (a, p, n) the decoder receives every combination of an identity code and an ambiguity code: G(d_j,
a_i), here the `Swap(j, i)`. Its output should be

* the feature map of i, for i = j and for swaps of anchor and positive, which share their identity (L_rec);
* a map that encodes to a_i and d_j again, for all nine (L_cyc);
* a map of the identity of j, for all but swaps of positive and negative, which share their modality (L_idc).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.losses.dg_vae.cross_modal import CrossModalTriplets

Role = Literal["anchor", "positive", "negative"]
RecTarget = Literal["detached", "live"]

ROLES: tuple[Role, ...] = ("anchor", "positive", "negative")


class Swap(NamedTuple):
    """G(d_identity, a_ambiguity): whose identity code is decoded with whose ambiguity code."""

    identity: Role
    ambiguity: Role


SWAPS: tuple[Swap, ...] = tuple(Swap(j, i) for j, i in product(ROLES, ROLES))
"""All nine swaps; L_cyc decodes a map for each."""

SELF_SWAPS = tuple(Swap(role, role) for role in ROLES)
POSITIVE_SWAPS = (Swap("positive", "anchor"), Swap("anchor", "positive"))
NEGATIVE_SWAPS = (Swap("negative", "anchor"), Swap("anchor", "negative"))
RECONSTRUCTED_SWAPS = (*SELF_SWAPS, *POSITIVE_SWAPS)
"""Swaps compared by L_rec; none mixes the negative with another role."""

IDENTITY_SWAPS = (*SELF_SWAPS, *POSITIVE_SWAPS, *NEGATIVE_SWAPS)
"""Swaps whose identity L_idc checks."""


def by_role(values: Tensor, triplets: CrossModalTriplets) -> dict[Role, Tensor]:
    """Values [B, ...] of the batch, indexed for the anchor, positive and negative of each triplet."""
    return {"anchor": values, "positive": values[triplets.positives], "negative": values[triplets.negatives]}


def swap_reconstruction_loss(
    targets: Mapping[Role, Tensor], decoded: Mapping[Swap, Tensor], *, target: RecTarget = "detached"
) -> Tensor:
    """L_rec (Eq. 12): the mean over a, p, n of ‖f_κ − G(d_κ, a_κ)‖₁, plus the mean of the two swaps of a and p.

    ‖·‖₁ is the mean over all elements of the map (a sum would be 196,608 times as large). Eq. 12 prints the same
    modality for both codes of a swap; text and fig. 4 say across modalities, as triplets are drawn by default.

    Args:
        targets: feature maps f [B, C, h, w] by role (or squashed images, for table 3's image decoder).
        decoded: G(d_j, a_i) of `RECONSTRUCTED_SWAPS`; others are not read.
        target: `detached`: f receives no gradient, as training could shrink it otherwise. `live`: f receives it.
    """
    goal = {role: value.detach() if target == "detached" else value for role, value in targets.items()}

    def error(swap: Swap) -> Tensor:
        return (goal[swap.ambiguity] - decoded[swap]).abs().mean()

    own = torch.stack([error(swap) for swap in SELF_SWAPS]).mean()
    return own + torch.stack([error(swap) for swap in POSITIVE_SWAPS]).mean()


def cycle_loss(
    identity: Mapping[Role, Tensor],
    ambiguity: Mapping[Role, Tensor],
    identity_again: Mapping[Swap, Tensor],
    ambiguity_again: Mapping[Swap, Tensor],
) -> Tensor:
    """L_cyc (Eq. 13): the mean over all nine swaps of |a_i − E^A(G(d_j, a_i))| + |d_j − E^D(G(d_j, a_i))|.

    |·| is the mean over dimensions and batch. The decoded codes receive gradients too.

    Args:
        identity: d [B, D] by role, as it was decoded (samples; means in the autoencoder rows of table 2).
        ambiguity: a [B, A] by role.
        identity_again: the *means* of E^D of the decoded maps, by swap.
        ambiguity_again: the means of E^A of them.
    """
    errors = [
        (ambiguity[swap.ambiguity] - ambiguity_again[swap]).abs().mean()
        + (identity[swap.identity] - identity_again[swap]).abs().mean()
        for swap in SWAPS
    ]
    return torch.stack(errors).mean()


def decoded_identity_loss(logits: Mapping[Swap, Tensor], labels: Mapping[Role, Tensor]) -> Tensor:
    """L_idc (Eq. 14): cross-entropy of D^C on decoded maps, mean over the seven `IDENTITY_SWAPS` and the batch.

    Args:
        logits: D^C of the mean of E^D of the decoded maps [B, C], by swap; others than these seven are not read.
        labels: int64 [B] by role; a map has the identity of its identity code.
    """
    losses = [F.cross_entropy(logits[swap], labels[swap.identity]) for swap in IDENTITY_SWAPS]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class DgVaeWeights:
    """Weights λ of the losses (§4.2), the same on both datasets.

    Attributes:
        identity: λ_id, of L_id.
        triplet: λ_cmtl, of L_cmtl.
        aux: λ_aux, of both on samples.
        decoded_identity: λ_idc.
        cycle: λ_cyc.
        reconstruction: λ_rec.
        swap: λ_tsr, of the three above; it has no value in the paper.
        mixture: λ_gmm.
        large_margin: λ_lmc.
        margin: λ_α, of `margin_reward`, as a part of L_lmc; not in the paper.
        discriminable: λ_disc, of the three above.
        ambiguity: λ_ambi, 0.001 in the second stage, 0.01 in the third.
    """

    identity: float = 1.0
    triplet: float = 1.0
    aux: float = 0.1
    decoded_identity: float = 0.5
    cycle: float = 0.5
    reconstruction: float = 0.5
    swap: float = 1.0
    mixture: float = 1.0
    large_margin: float = 0.1
    margin: float = 0.01
    discriminable: float = 0.2
    ambiguity: float = 0.01

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of losses by these names: Eq. 19, or a stage's part of it.

        `decoded_identity`, `cycle` and `reconstruction` are also weighted by `swap` (Eq. 15), `mixture` and
        `large_margin` by `discriminable` (Eq. 9), and `margin` by both weights of L_lmc.
        """
        outer = {
            **dict.fromkeys(("decoded_identity", "cycle", "reconstruction"), self.swap),
            **dict.fromkeys(("mixture", "large_margin"), self.discriminable),
            "margin": self.discriminable * self.large_margin,
        }
        return torch.stack([outer.get(name, 1.0) * getattr(self, name) * loss for name, loss in terms.items()]).sum()
