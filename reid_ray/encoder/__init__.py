"""Exported models without their runs, for trackers, search services and notebooks.

Importing this package does not load Ray, pandas, matplotlib or torchvision.
"""

from __future__ import annotations

from reid_ray.encoder.description import FORMAT_VERSION, Description
from reid_ray.encoder.encoder import Encoder
from reid_ray.encoder.hub_module import HubNetwork
from reid_ray.encoder.loading import load_encoder

__all__ = ["FORMAT_VERSION", "Description", "Encoder", "HubNetwork", "load_encoder"]
