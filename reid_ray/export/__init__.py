"""Export a run to files for other software: self-describing weights, ONNX, TorchScript, `torch.export`."""

from __future__ import annotations

from reid_ray.export.check import MIN_COSINE, Check
from reid_ray.export.writing import FORMATS, export_run

__all__ = ["FORMATS", "MIN_COSINE", "Check", "export_run"]
