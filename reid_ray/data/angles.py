"""The angles at which body meshes are projected."""

from __future__ import annotations

from typing import Literal

Angles = Literal["seven", "six"]

ANGLES = (0, 45, 90, 135, 180, 225, 270, 315)
"""Projection angles in degrees; 0 is the image's own view."""

NOVEL_ANGLES: dict[Angles, tuple[int, ...]] = {"seven": ANGLES[1:], "six": ANGLES[1:7]}
"""Angles from which a new structure is sampled: the paper's `seven`, and the released code's `six`, without 315°."""
