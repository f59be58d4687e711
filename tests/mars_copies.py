"""A small copy of MARS in its official format, with its pitfalls for readers, and the expected counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import torch
from torchvision.io import encode_jpeg

N_CAMERAS = 3


@dataclass(frozen=True)
class MarsCounts:
    """The content of a copy, counted while it was written. Test counts include query, distractors and junk.

    Attributes:
        single_pid: the training person with one tracklet.
    """

    train_pids: int
    train_tracklets: int
    train_images: int
    single_pid: int
    test_tracklets: int
    test_images: int
    query_tracklets: int
    query_images: int
    distractor_tracklets: int
    distractor_images: int
    junk_tracklets: int
    junk_images: int


def write_mars(root: Path, *, n_train_ids: int = 3, n_test_ids: int = 3, seed: int = 0) -> MarsCounts:
    """Write images and lists of a copy of MARS to `root`.

    Training people have one or two tracklets by each camera, but the last has a single one. Test people have one or two
    by each camera, of which the first is a query; junk and distractors precede them in the lists, as in
    MARS. Tracklets have 1 to 20 frames, at least one of them a single one. Images of a person are of one colour.
    """
    rng = np.random.default_rng(seed)
    single_pid = 2 * n_train_ids - 1
    people = {"train": list(range(1, 2 * n_train_ids, 2)), "test": [-1, 0, *range(2, 2 * n_test_ids + 1, 2)]}
    tracklets: dict[str, list[tuple[int, int, int]]] = {}  # pid, camera, frames
    queries: list[int] = []
    for part, pids in people.items():
        rows: list[tuple[int, int, int]] = []
        for pid in pids:
            for camera in range(1, N_CAMERAS + 1):
                if pid == single_pid and part == "train" and camera > 1:
                    continue
                if part == "test" and pid > 0:
                    queries.append(len(rows) + 1)
                n_tracklets = 1 if pid == single_pid and part == "train" else int(rng.integers(1, 3))
                rows += [(pid, camera, int(rng.integers(1, 21))) for _ in range(n_tracklets)]
        rows[-1] = (*rows[-1][:2], 1)
        tracklets[part] = rows
    (root / "info").mkdir(parents=True)
    for part, rows in tracklets.items():
        _write_part(root, part, rows)
    scipy.io.savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([queries], dtype=np.uint16)})
    test = tracklets["test"]
    query_tracklets = [test[number - 1] for number in queries]
    frames = {pid: [n for row_pid, _, n in test if row_pid == pid] for pid in (-1, 0)}
    return MarsCounts(
        train_pids=n_train_ids,
        train_tracklets=len(tracklets["train"]),
        train_images=sum(row[2] for row in tracklets["train"]),
        single_pid=single_pid,
        test_tracklets=len(test),
        test_images=sum(row[2] for row in test),
        query_tracklets=len(query_tracklets),
        query_images=sum(row[2] for row in query_tracklets),
        distractor_tracklets=len(frames[0]),
        distractor_images=sum(frames[0]),
        junk_tracklets=len(frames[-1]),
        junk_images=sum(frames[-1]),
    )


def _write_part(root: Path, part: str, tracklets: list[tuple[int, int, int]]) -> None:
    names: list[str] = []
    tracks: list[list[int]] = []
    numbers: dict[tuple[int, int], int] = {}
    for pid, camera, n_frames in tracklets:
        person = "00-1" if pid == -1 else f"{pid:04d}"
        number = numbers[pid, camera] = numbers.get((pid, camera), 0) + 1
        tracks.append([len(names) + 1, len(names) + n_frames, pid, camera])
        folder = root / f"bbox_{part}" / person
        folder.mkdir(parents=True, exist_ok=True)
        data = _image(pid)
        for frame in range(1, n_frames + 1):
            names.append(f"{person}C{camera}T{number:04d}F{frame:03d}.jpg")
            (folder / names[-1]).write_bytes(data)
    (root / "info" / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    variable = f"track_{part}_info"
    scipy.io.savemat(root / "info" / f"tracks_{part}_info.mat", {variable: np.array(tracks, dtype=np.int32)})


def _image(pid: int) -> bytes:
    colour = torch.tensor([40 * pid % 256, 90 * pid % 256, 30], dtype=torch.int64).to(torch.uint8)
    return bytes(encode_jpeg(colour[:, None, None].expand(3, 32, 16).contiguous()).numpy().tobytes())
