"""Triplet swap reconstruction on several workers: decoding, re-encoding, and image grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import DGVAEConfig
from reid_ray.losses.dg_vae import (
    IDENTITY_SWAPS,
    RECONSTRUCTED_SWAPS,
    SWAPS,
    CrossModalTriplets,
    Role,
    Swap,
    by_role,
    cycle_loss,
    decoded_identity_loss,
    swap_reconstruction_loss,
)
from reid_ray.methods.base import Batch, Collectives
from reid_ray.methods.dg_vae.pieces import MODALITIES, apply_to_pieces, encode_pieces, local_pieces
from reid_ray.models import GaussianCode, kept_running_statistics
from reid_ray.models.dg_vae import CodeDecoder, DgVaeRetriever, GaussianEncoder
from reid_ray.models.dg_vae.encoders import INFRARED, VISIBLE
from reid_ray.models.is_gan import squash, unsquash

N_DRAWN = 8
"""Images of each modality in a rendered grid."""


@dataclass(frozen=True)
class Decoded:
    """G(d_j, a_i) for the nine swaps of this worker's anchors.

    Attributes:
        pieces: maps or images, two pieces (of visible and of infrared anchors) for each swap in the order of `SWAPS`.
        identity: d by role, of this worker's anchors [n, D], visible ones first.
        ambiguity: a by role.
    """

    pieces: list[Tensor]
    identity: Mapping[Role, Tensor]
    ambiguity: Mapping[Role, Tensor]

    def by_swap(self, pieces: Sequence[Tensor]) -> dict[Swap, Tensor]:
        """Concatenate values in the order of `pieces` by swap."""
        return {swap: torch.cat(list(pieces[2 * i : 2 * i + 2])) for i, swap in enumerate(SWAPS)}


class Swapper:
    """The decoder with the networks that re-encode its outputs; has no weights of its own."""

    def __init__(
        self,
        decoder: CodeDecoder,
        retriever: DgVaeRetriever,
        ambiguity_encoder: GaussianEncoder,
        settings: DGVAEConfig,
        *,
        together: bool,
    ) -> None:
        self.decoder = decoder
        self.retriever = retriever
        self.ambiguity_encoder = ambiguity_encoder
        self.settings = settings
        self.together = together

    def targets(self, maps: Sequence[Tensor], images: Sequence[Tensor]) -> list[Tensor]:
        """The reconstruction targets by modality: feature maps, or squashed images (table 3)."""
        if self.settings.rec_space == "images":
            return [squash(each) for each in images]
        return [each.to(torch.promote_types(each.dtype, torch.float32)) for each in maps]

    def decode(
        self,
        identity: Tensor,
        ambiguity: Tensor,
        triplets: CrossModalTriplets,
        batch: Batch,
        collectives: Collectives,
    ) -> Decoded:
        """Decode all swaps of this worker's anchors.

        Args:
            identity: d of the global batch [B, D].
            ambiguity: a of the global batch [B, A].
        """
        identities, ambiguities = (
            {role: local_pieces(values, collectives) for role, values in by_role(whole, triplets).items()}
            for whole in (identity, ambiguity)
        )
        d = [identities[swap.identity][stream] for swap in SWAPS for stream in range(2)]
        a = [ambiguities[swap.ambiguity][stream] for swap in SWAPS for stream in range(2)]
        masks = [self._masks(batch, swap, name, collectives) for swap in SWAPS for name in MODALITIES]
        if self.together:
            layers = [torch.cat(layer) for layer in zip(*masks, strict=True)]
            whole = self.decoder(torch.cat(d), torch.cat(a), layers)
            pieces = list(torch.split(whole, [len(piece) for piece in d]))
        else:
            pieces = [self.decoder(*each) for each in zip(d, a, masks, strict=True)]
        joined = ({role: torch.cat(values) for role, values in each.items()} for each in (identities, ambiguities))
        return Decoded(pieces, *joined)

    def losses(
        self,
        decoded: Decoded,
        targets: Tensor,
        labels: Tensor,
        triplets: CrossModalTriplets,
        classifier: nn.Module,
        collectives: Collectives,
    ) -> dict[str, Tensor]:
        """L_rec, L_cyc and L_idc of this worker's anchors, by the names of their weights.

        The running statistics of the encoders are not updated, so they are those of real images.

        Args:
            targets: reconstruction targets of the global batch.
            labels: int64 [B].
        """
        with kept_running_statistics(self.retriever, self.ambiguity_encoder, classifier):
            maps = self._maps(decoded.pieces)
            identity = [code.mean for code in self._encode(self.retriever.identity_encoder, maps)]
            ambiguity = [code.mean for code in self._encode(self.ambiguity_encoder, maps)]
            logits = apply_to_pieces(classifier, identity, together=self.together)
        goals, names = (
            {role: torch.cat(local_pieces(values, collectives)) for role, values in by_role(whole, triplets).items()}
            for whole in (targets, labels)
        )
        generated = decoded.by_swap(decoded.pieces)
        return {
            "reconstruction": swap_reconstruction_loss(
                goals, {swap: generated[swap] for swap in RECONSTRUCTED_SWAPS}, target=self.settings.rec_target
            ),
            "cycle": cycle_loss(
                decoded.identity, decoded.ambiguity, decoded.by_swap(identity), decoded.by_swap(ambiguity)
            ),
            "decoded_identity": decoded_identity_loss(
                {swap: values for swap, values in decoded.by_swap(logits).items() if swap in IDENTITY_SWAPS}, names
            ),
        }

    def render(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Grids [rows, columns, 3, H, W] of swaps in both modalities, with the means of codes.

        In `swap-visible` ambiguity codes are from visible images, one per column, and identity codes from infrared
        images, one per row; `swap-infrared` is the reverse. The first row and the first column show these images.
        `self` has four rows: visible images, the decoded outputs of their own codes, and the same for infrared
        images. A decoded feature map is shown as its mean absolute activation.

        Args:
            images: by modality; the two images of an identity are adjacent.
        """
        drawn = {name: views[::2][:N_DRAWN] for name, views in images.items()}
        trunks = self.retriever.trunks
        maps = {"visible": trunks.visible(drawn["visible"]), "infrared": trunks.infrared(drawn["infrared"])}
        identity = {name: self.retriever.identity_encoder(each).mean for name, each in maps.items()}
        ambiguity = {name: self.ambiguity_encoder(each).mean for name, each in maps.items()}
        size = drawn["visible"].shape[-2:]
        grids = {}
        for name, other in (MODALITIES, MODALITIES[::-1]):
            rows, columns = len(identity[other]), len(ambiguity[name])
            d = identity[other].repeat_interleave(columns, dim=0)
            a = ambiguity[name].repeat(rows, 1)
            cells = self._shown(self.decoder(d, a, None), size).reshape(rows, columns, 3, *size)
            corner = torch.full_like(drawn[name][:1], torch.nan)
            top = torch.cat([corner, drawn[name]])[None]
            grids[f"swap-{name}"] = torch.cat([top, torch.cat([drawn[other][:, None], cells], dim=1)])
        own = [self._shown(self.decoder(identity[name], ambiguity[name], None), size) for name in MODALITIES]
        grids["self"] = torch.stack([drawn["visible"], own[VISIBLE], drawn["infrared"], own[INFRARED]])
        return grids

    def _shown(self, decoded: Tensor, size: torch.Size) -> Tensor:
        """Decoded outputs as images [N, 3, H, W], normalised like the batch; for maps, the activation from −2 to 2."""
        if self.settings.rec_space == "images":
            return unsquash(decoded)
        activation = decoded.abs().mean(dim=1, keepdim=True)
        low, high = activation.amin((2, 3), keepdim=True), activation.amax((2, 3), keepdim=True)
        scaled = 4 * (activation - low) / (high - low).clamp(min=1e-6) - 2
        return F.interpolate(scaled, size=list(size), mode="nearest").expand(-1, 3, -1, -1)

    def _maps(self, pieces: Sequence[Tensor]) -> list[Tensor]:
        """Feature maps of the decoded pieces: maps as they are, images through the trunk of a's modality."""
        if self.settings.rec_space == "features":
            return list(pieces)
        trunks = self.retriever.trunks
        maps: dict[int, Tensor] = {}
        for code, trunk in ((VISIBLE, trunks.visible), (INFRARED, trunks.infrared)):
            own = [number for number, modality in enumerate(self._modalities()) if modality == code]
            encoded = apply_to_pieces(trunk, [unsquash(pieces[number]) for number in own], together=self.together)
            maps |= dict(zip(own, encoded, strict=True))
        return [maps[number] for number in range(len(pieces))]

    def _modalities(self) -> list[int]:
        """The modality of the ambiguity code of each piece."""
        others = {"cross": (INFRARED, VISIBLE), "same": (VISIBLE, INFRARED)}[self.settings.swap_modality]
        own = (VISIBLE, INFRARED)
        return [(own if swap.ambiguity == "anchor" else others)[stream] for swap in SWAPS for stream in range(2)]

    def _encode(self, encoder: GaussianEncoder, maps: Sequence[Tensor]) -> list[GaussianCode]:
        return encode_pieces(encoder, maps, together=self.together)

    def _masks(self, batch: Batch, swap: Swap, stream: str, collectives: Collectives) -> list[Tensor]:
        """This worker's slice of the dropout masks of one piece, which are drawn for the global batch."""
        like = batch[stream].labels
        rng = batch.rng(f"dropout/{swap.identity}/{swap.ambiguity}/{stream}")
        masks = []
        for shape in self.decoder.mask_shapes(len(like)):
            kept = rng.random(shape, dtype=np.float32) >= self.settings.dropout
            masks.append(collectives.local_slice(torch.from_numpy(kept)).to(like.device))
        return masks
