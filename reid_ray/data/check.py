"""Check a whole dataset and list all of its problems, without stopping at the first."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from reid_ray.config import DataConfig
from reid_ray.data.images import printable
from reid_ray.data.integrity import Inspection, inspect_image
from reid_ray.data.meshes import mesh_problems, mesh_reader, rows_with_mesh
from reid_ray.data.pack import Progress, content_digest, decoding_of, encoded
from reid_ray.data.packed_images import MANIFEST, read_manifest
from reid_ray.data.readers import scan_dataset
from reid_ray.data.readers.scan import Kind, Problem, Scan, is_image_name, walk_files
from reid_ray.data.table import SPLITS, ImageTable
from reid_ray.errors import DataError, StorageError
from reid_ray.io.paths import Location, as_path
from reid_ray.types import UNKNOWN

SYSTEM_LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", ".directory", ".localized"})
"""Files that operating systems leave in folders of images, in lower case; `._NAME` of macOS is recognised as well."""

OTHER_FORMATS = frozenset({".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".tga", ".raw", ".dng"})
"""Suffixes of images that are not read."""


@dataclass(frozen=True)
class SplitCounts:
    """Content of a split. Unknown identities and cameras are not counted.

    Attributes:
        split: train, query or gallery.
        images: rows.
        pids: distinct known identities.
        cameras: camid → images; key `UNKNOWN` where the camera is not known.
    """

    split: str
    images: int
    pids: int
    cameras: dict[int, int]

    @property
    def n_cameras(self) -> int:
        return len(self.cameras.keys() - {UNKNOWN})


@dataclass(frozen=True)
class SizeStatistics:
    """Sizes of the images that could be decoded; each triple is (smallest, median, largest).

    Attributes:
        height: pixels.
        width: pixels.
        file_bytes: bytes of one encoded image.
        total_bytes: bytes of all of them.
        distinct: how many different (height, width) there are.
    """

    height: tuple[int, int, int]
    width: tuple[int, int, int]
    file_bytes: tuple[int, int, int]
    total_bytes: int
    distinct: int


@dataclass(frozen=True)
class CheckReport:
    """Content of a dataset and its problems.

    Attributes:
        name: the table's name.
        layout: the layout it was read as.
        splits: counts for each split that has rows.
        sizes: None where no image could be decoded.
        problems: by kind, then by path.
        notes: what was left out on purpose, and how reading changes the pixels.
    """

    name: str
    layout: str
    splits: tuple[SplitCounts, ...]
    sizes: SizeStatistics | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Problems of each kind, kinds without a problem left out."""
        return dict(Counter(problem.kind for problem in self.problems))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "clean": self.clean, "problem_counts": self.counts()}


@dataclass(frozen=True)
class _Look:
    """Result for one image: its inspection, and the hash and length of its bytes (b"", 0 if unread)."""

    inspection: Inspection
    sha256: bytes = b""
    n_bytes: int = 0


def check(config: DataConfig, *, threads: int = 4, progress: Progress | None = None) -> CheckReport:
    """Read and decode every image of the dataset that `config` describes.

    Problems are empty splits, files that cannot be rows (misnamed, listed but missing), images that are empty,
    truncated or unreadable, images with the same bytes (each group once, under its first file), files in the image
    folders that are not images, and body meshes that cannot be projected (`mesh_problems`). Files that operating
    systems create there are only noted. The same file in two splits is one image with two rows, not a duplicate.

    Raises:
        DataError: there is nothing to check: no such folder, another layout, a broken list or manifest.
    """
    found = scan_dataset(config)
    paths = list(dict.fromkeys(found.table.paths))
    n_meshes = len(rows_with_mesh(found.table))
    looks = dict(zip(paths, _look_at_all(found, paths, threads, progress), strict=True))
    strays, litter = _other_files(found.folders)
    problems = [
        *found.empty_splits(),
        *found.problems,
        *_faults(looks),
        *_duplicates(looks),
        *_strays(strays),
        *_changed_pack(config, found.table, looks),
        *(mesh_problems(found.table, mesh_reader(config), threads=threads) if n_meshes else ()),
    ]
    mesh_note = (f"{n_meshes} of {len(found.table)} images have a body mesh",) if n_meshes else ()
    order = {kind: i for i, kind in enumerate(get_args(Kind))}
    return CheckReport(
        name=found.table.name,
        layout=config.layout,
        splits=_count(found.table),
        sizes=_sizes(looks.values()),
        problems=tuple(sorted(problems, key=lambda problem: (order[problem.kind], problem.path))),
        notes=(*found.notes, *mesh_note, *_litter_note(litter), *_conversion_notes(looks.values())),
    )


def _look_at_all(found: Scan, paths: Sequence[str], threads: int, progress: Progress | None) -> Iterable[_Look]:
    decoding = decoding_of(found.images)

    def look(path: str) -> _Look:
        try:
            data = encoded(found.images, path)
        except (DataError, StorageError) as error:
            return _Look(Inspection(fault="unreadable", detail=f"cannot be read ({str(error).rstrip('.')})"))
        return _Look(inspect_image(data, decoding), hashlib.sha256(data).digest(), len(data))

    with ThreadPoolExecutor(threads) as pool:
        for n_done, result in enumerate(pool.map(look, paths), start=1):
            if progress is not None:
                progress(n_done, len(paths))
            yield result


def _faults(looks: dict[str, _Look]) -> list[Problem]:
    return [
        Problem(look.inspection.fault, path, f"{path} {look.inspection.detail}.")
        for path, look in looks.items()
        if look.inspection.fault is not None
    ]


def _duplicates(looks: dict[str, _Look]) -> list[Problem]:
    """One problem per group of images with the same bytes; empty files are reported as empty, not as duplicates."""
    groups: defaultdict[bytes, list[str]] = defaultdict(list)
    for path, look in looks.items():
        if look.n_bytes:
            groups[look.sha256].append(path)
    return [
        Problem("duplicate", group[0], f"{group[0]} has the same bytes as {', '.join(group[1:])}.")
        for group in groups.values()
        if len(group) > 1
    ]


def _other_files(folders: Iterable[Location]) -> tuple[list[Location], list[Location]]:
    """Files in image folders that are not images: a problem for each, and a note on files of operating systems."""
    others = [file for folder in folders if folder.is_dir() for file in walk_files(folder) if not is_image_name(file)]
    litter = [file for file in others if file.name.lower() in SYSTEM_LITTER or file.name.startswith("._")]
    known = set(litter)
    return [file for file in others if file not in known], litter


def _strays(files: Iterable[Location]) -> list[Problem]:
    return [Problem("not an image", printable(file), f"{printable(file)} {_stray_detail(file)}.") for file in files]


def _stray_detail(file: Location) -> str:
    if file.suffix.lower() in OTHER_FORMATS:
        return "has a format that is not read and is ignored; convert it to JPEG or PNG"
    return "is among the images and is ignored; remove it"


def _litter_note(files: Sequence[Location]) -> tuple[str, ...]:
    if not files:
        return ()
    names = ", ".join(sorted({printable(file.name) for file in files})[:3])
    return (f"{len(files)} files that operating systems leave ({names}) are ignored",)


def _conversion_notes(looks: Iterable[_Look]) -> tuple[str, ...]:
    """How many images reading changes, and how."""
    counts = Counter(conversion for look in looks for conversion in look.inspection.conversions)
    return tuple(f"{n} images: {conversion}" for conversion, n in sorted(counts.items()))


def _changed_pack(config: DataConfig, table: ImageTable, looks: dict[str, _Look]) -> list[Problem]:
    """Compare a packed dataset with the digest in its manifest; a difference is damage that still decodes."""
    if config.layout != "packed" or not config.use_cameras:
        return []
    root = as_path(config.root or "")
    if content_digest(table, [looks[path].sha256 for path in table.paths]) == read_manifest(root)["digest"]:
        return []
    what = f"{root} is damaged: its content does not have the digest in {MANIFEST}; pack or copy it again."
    return [Problem("unreadable", str(root), what)]


def _count(table: ImageTable) -> tuple[SplitCounts, ...]:
    splits = ((split, table.split(split)) for split in SPLITS)
    return tuple(
        SplitCounts(
            split,
            images=len(part),
            pids=len(set(part.pids.tolist()) - {UNKNOWN}),
            cameras=dict(sorted(Counter(part.camids.tolist()).items())),
        )
        for split, part in splits
        if len(part)
    )


def _sizes(looks: Iterable[_Look]) -> SizeStatistics | None:
    decoded = [look for look in looks if look.inspection.height]
    if not decoded:
        return None
    return SizeStatistics(
        height=_spread([look.inspection.height for look in decoded]),
        width=_spread([look.inspection.width for look in decoded]),
        file_bytes=_spread([look.n_bytes for look in decoded]),
        total_bytes=sum(look.n_bytes for look in decoded),
        distinct=len({(look.inspection.height, look.inspection.width) for look in decoded}),
    )


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), int(np.median(values)), max(values)
