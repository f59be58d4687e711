"""`config.json` of an exported model: its origin, its input, and the hashes of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from reid_ray.errors import ExportError
from reid_ray.io.files import sha256_of

FORMAT_VERSION = 1
"""Format version; increased when older versions of this package could not read a folder, or would misread it."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

Kind = Literal["weights", "onnx", "torchscript", "torch-export", "torchreid", "modules"]
Takes = Literal["images", "frames"]


@dataclass(frozen=True)
class ExportedFile:
    """One file of an exported model.

    Attributes:
        kind: `weights` (safetensors, read with the architecture that `settings` describes), a program (`onnx`,
            `torchscript`, `torch-export`), `torchreid` (weights with torchreid's names), or `modules`: all networks of
            the method, generators included.
        takes: input of a program: `images`, float32 [N, 3, H, W], normalised RGB; or `frames`, uint8 [N, h, w, 3],
            BGR of any size.
        sha256: hash of the content, in hexadecimal.
    """

    kind: Kind
    takes: Takes
    sha256: str


@dataclass(frozen=True)
class InputFormat:
    """Preprocessing of an image for the network.

    Attributes:
        height, width: size in pixels; resizing ignores the aspect ratio.
        mean, std: normalisation per channel, for values in 0 … 1.
        interpolation: interpolation of the resize, on uint8.
        antialias: whether downscaling is antialiased.
        channels: order of the channels.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    antialias: bool = True
    channels: str = "rgb"


@dataclass(frozen=True)
class Description:
    """The content of `config.json`.

    Attributes:
        name: name of the run.
        method, stage, module: the trained method and stage, and the module used for retrieval.
        epoch: number of epochs after which the weights were written.
        backbone: name of the trunk.
        feature_size: D.
        input: preprocessing of images.
        metrics: metrics of the run's last evaluation of this model; empty if there was none.
        data: name of the training data.
        licence_note: licence information for users of the weights.
        settings: the part of the configuration from which the network is built.
        builder: `network`: `settings["model"]` is enough; `method`: the method builds it.
        files: files by name.
        library: library that wrote the folder, with its version.
        format_version: format version of the folder.
    """

    name: str
    method: str
    stage: str
    module: str
    epoch: int
    backbone: str
    feature_size: int
    input: InputFormat
    metrics: Mapping[str, float]
    data: str
    licence_note: str
    settings: Mapping[str, Any]
    builder: Literal["network", "method"] = "method"
    files: Mapping[str, ExportedFile] = field(default_factory=dict)
    library: str = "reid_ray"
    format_version: int = FORMAT_VERSION

    @property
    def precision(self) -> str:
        """Precision of the run: `bf16`, `float32` or `float64`."""
        return str(self.settings["training"]["precision"])

    def to_json(self) -> dict[str, Any]:
        """The description in JSON types, with the format version first."""
        return {"format_version": self.format_version, **asdict(self)}

    @classmethod
    def from_json(cls, content: Any, where: str | Path) -> Description:
        """Parse the content of a JSON file.

        Raises:
            ExportError: another format version, or a field that is missing or has another type.
        """
        version = content.get("format_version") if isinstance(content, dict) else None
        if version is None:
            raise ExportError(f"{where} describes no model exported by reid_ray: it has no format_version.")
        if version != FORMAT_VERSION:
            raise ExportError(
                f"{where} has format version {version!r}, and this version of reid_ray reads version {FORMAT_VERSION}; "
                f"export the run again, or install the version that wrote it ({content.get('library', 'unknown')})."
            )
        known = {each.name for each in fields(cls)}
        try:
            values = {name: value for name, value in content.items() if name in known}
            values["input"] = InputFormat(**{**values["input"], **_as_tuples(values["input"])})
            values["files"] = {name: ExportedFile(**file) for name, file in values["files"].items()}
            description = cls(**values)
            _check_types(description)
            return description
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ExportError(f"{where} is incomplete or damaged ({error}); export the run again.") from error


def read_description(folder: Path) -> Description:
    """The description in a folder; `ExportError` if there is none that this version reads."""
    file = folder / CONFIG
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExportError(
            f"{folder} is not an exported model: it has no {CONFIG}; write one by 'reid-ray export'."
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(f"Cannot read {file} ({error}); export the run again.") from error
    return Description.from_json(content, file)


def write_description(description: Description, folder: Path) -> None:
    """Write `config.json`."""
    content = json.dumps(description.to_json(), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(content + "\n", encoding="utf-8")


def _hash_of(file: Path) -> str:
    """The hash of a file's content; `ExportError` if it cannot be read."""
    try:
        return sha256_of(file)
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ExportError(f"{file} {reason}, and {CONFIG} names it; copy the whole folder again.") from error


def check_file(description: Description, file: Path) -> None:
    """Raise `ExportError` if a file of an exported model is missing or has changed since it was written."""
    expected, found = description.files[file.name].sha256, _hash_of(file)
    if found != expected:
        raise ExportError(
            f"{file} has changed since it was exported (sha256 {found[:12]}…, expected {expected[:12]}…); "
            f"copy the folder again, or export the run again."
        )


def _check_types(description: Description) -> None:
    """Raise `ValueError` naming the first value of another type, or a size below 1."""
    size = description.input
    numbers = {"height": size.height, "width": size.width, "feature_size": description.feature_size}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}")
    if not isinstance(description.settings, dict):
        raise ValueError(f"settings is {description.settings!r}")
    for name, file in description.files.items():
        if not isinstance(file.sha256, str):
            raise ValueError(f"the sha256 of {name} is {file.sha256!r}")


def _as_tuples(values: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values[name]) for name in ("mean", "std")}
