"""Reconstruction losses of a view generator: of the image and of the identity code (GCL, thesis Eq. 5.1 and 5.2)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

FeatureViews = Literal["ori+cycle", "new+cycle"]


def image_reconstruction_loss(images: Tensor, reconstructed: Tensor, cycled: Tensor) -> Tensor:
    """L_img (Eq. 5.1): mean|x'_ori − x| + mean|x''_ori − x|, over all images, channels and pixels.

    Args:
        images: x [B, 3, H, W].
        reconstructed: x'_ori, generated from the image's own code and structure.
        cycled: x''_ori, generated from the code of the novel view and the image's own structure.
    """
    return (reconstructed - images).abs().mean() + (cycled - images).abs().mean()


def feature_reconstruction_loss(
    codes: Tensor, *, reconstructed: Tensor, novel: Tensor, cycled: Tensor, views: FeatureViews = "ori+cycle"
) -> Tensor:
    """L_feat (Eq. 5.2): mean|f_id − E_id(view)| of two generated views, over all images and entries.

    The codes f_id of the images are the targets and receive no gradient.

    Args:
        codes: f_id [B, D].
        reconstructed: E_id(x'_ori), used by `ori+cycle`.
        novel: E_id(x'_new), used by `new+cycle`.
        cycled: E_id(x''_ori).
        views: `ori+cycle` as in the released code, or `new+cycle` as Eq. 5.2 is printed.
    """
    first = reconstructed if views == "ori+cycle" else novel
    target = codes.detach()
    return (first - target).abs().mean() + (cycled - target).abs().mean()
