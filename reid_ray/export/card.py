"""The model card of an exported folder: README.md, with the metadata that model hubs read."""

from __future__ import annotations

import json
from collections.abc import Mapping

from reid_ray.encoder.description import Description

RESPONSIBLE_USE = """\
Re-identification follows people from camera to camera, and the law protects the people who are filmed in most places.
Before you search footage of people with this model, have a legal basis (such as consent), a stated purpose, limits on
who sees the results and how long you keep them, and a way for people to object. A match is a similarity, not an
identification; do not base a decision about a person on it alone."""

LICENCE_NOTE = (
    "The licence of the training data applies to the weights. The public datasets of person re-identification "
    "are for research only; ask the owner of the images before any other use of these weights."
)

SHOWN = {"mAP": 1, "R1": 1, "R5": 1, "R10": 1, "mINP": 1}
"""Metrics of the table, with their digits, in percent."""


def model_card(description: Description) -> str:
    """README.md of the folder."""
    size = description.input
    header = {
        "library_name": "reid_ray",
        "tags": ["person-re-identification", "image-feature-extraction", description.method, description.backbone],
        "pipeline_tag": "image-feature-extraction",
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in header.items()]
    return f"""\
---
{chr(10).join(lines)}
---

# {description.name}

A network for person re-identification, trained by `reid_ray` with the method `{description.method}` on
{description.data}. It turns a crop of a person into {description.feature_size} numbers; the cosine similarity of two
crops' numbers measures whether they show the same person.

| | |
|---|---|
| backbone | {description.backbone} |
| input | {size.height}×{size.width} (height × width), RGB, mean {list(size.mean)}, std {list(size.std)} |
| feature | {description.feature_size} numbers, L2-normalised |
| weights | stage `{description.stage}`, module `{description.module}`, after {description.epoch} epochs |
| precision of the run | {description.precision} |

## Accuracy

{_metrics_table(description.metrics, description.data)}

## Use

```python
import reid_ray

encoder = reid_ray.load_encoder("FOLDER")
features = encoder.embed(["a.jpg", "b.jpg"])            # float32 [2, {description.feature_size}]
features = encoder.embed_boxes(frame, boxes, channels="bgr")  # boxes [N, 4] of a frame of OpenCV
```

{_files_table(description)}

## Responsible use

{RESPONSIBLE_USE}

## Licence

{description.licence_note}
"""


def _metrics_table(metrics: Mapping[str, float], data: str) -> str:
    shown = {name: digits for name, digits in SHOWN.items() if name in metrics}
    if not shown:
        return f"The run was not evaluated. The accuracy of this model outside of {data} is unknown."
    head = " | ".join(("test split of", *shown))
    row = " | ".join((data, *(f"{metrics[name]:.{digits}%}" for name, digits in shown.items())))
    return (
        f"| {head} |\n|---|{'---|' * len(shown)}\n| {row} |\n\n"
        f"The figures hold for the cameras of {data}; expect less on others."
    )


def _files_table(description: Description) -> str:
    reads = {"images": "float32 [N, 3, H, W], normalised RGB", "frames": "uint8 [N, h, w, 3], BGR"}
    rows = [
        f"| `{name}` | {file.kind} | {reads[file.takes] if file.kind != 'modules' else '–'} | `{file.sha256[:16]}…` |"
        for name, file in description.files.items()
    ]
    return "\n".join(["| file | kind | reads | sha256 |", "|---|---|---|---|", *rows])
