"""Structure images of rows: projected or rendered, cached or not, fitted where there is no mesh."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import encode_jpeg, write_png

from reid_ray.data.meshes import (
    ANGLES,
    FileMeshes,
    Mesh,
    MeshImages,
    average_body,
    fitted_mesh,
    mesh_keys,
    mesh_problems,
    normalize_projection,
    project,
    rows_with_mesh,
    with_rendered,
    write_mesh,
)
from reid_ray.data.meshes.average_body import MARGIN
from reid_ray.data.meshes.check import signed_volume
from reid_ray.data.table import ImageTable
from reid_ray.data.views import resize
from reid_ray.errors import DataError

SIZE = {"height": 32, "width": 16}


@dataclass
class CountedMeshes:
    """Meshes of made-up keys; notes what is read."""

    n_read: list[str] = field(default_factory=list)

    def read(self, path: str) -> Mesh:
        self.n_read.append(path)
        mesh = fitted_mesh(64, 32)
        shift = np.array([0.02 * len(path), 0, 0], dtype=np.float32)
        return Mesh(mesh.vertices + shift, mesh.faces, mesh.camera, mesh.image_size)


def test_projections_of_meshes() -> None:
    reader = CountedMeshes()
    images = MeshImages(reader, **SIZE, cache_mb=1)
    for key in ("a", "bcd"):
        for angle in ANGLES:
            found = images.projection(key, angle)
            assert found.dtype == torch.uint8
            assert found.shape == (1, 32, 16)
            assert np.array_equal(found[0].numpy(), project(reader.read(key), angle, **SIZE))
    assert not torch.equal(images.projection("a", 0), images.projection("bcd", 0))
    assert not torch.equal(images.projection("a", 0), images.projection("a", 45))


@pytest.mark.filterwarnings("error")
def test_what_is_kept_is_what_was_drawn() -> None:
    reader = CountedMeshes()
    cached, uncached = MeshImages(reader, **SIZE, cache_mb=1), MeshImages(reader, **SIZE, cache_mb=0)
    first = [cached.projection("a", angle) for angle in ANGLES]
    reader.n_read.clear()
    again = [cached.projection("a", angle) for angle in ANGLES]
    assert not reader.n_read
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    again[0].zero_()  # a caller may write into what it gets
    assert torch.equal(cached.projection("a", 0), first[0])
    assert all(torch.equal(uncached.projection("a", angle), first[i]) for i, angle in enumerate(ANGLES))
    assert len(reader.n_read) == len(ANGLES)


def test_the_cache_stops_at_its_capacity() -> None:
    images = MeshImages(CountedMeshes(), height=256, width=128, cache_mb=1)
    images._capacity = 20_000  # bytes, a few projections
    for key in "abcdefgh":
        images.projection(key, 0)
    assert 0 < len(images._cache) < 8
    assert sum(map(len, images._cache.values())) == images._used <= 20_000


def test_threads_see_the_same_pixels() -> None:
    images = MeshImages(CountedMeshes(), **SIZE, cache_mb=1)
    jobs = [(key, angle) for key in "abc" for angle in ANGLES] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: images.projection(*job), jobs))
    alone = MeshImages(CountedMeshes(), **SIZE, cache_mb=0)
    assert all(torch.equal(image, alone.projection(*job)) for image, job in zip(found, jobs, strict=True))
    assert sum(map(len, images._cache.values())) == images._used


def test_angles_that_meshes_are_not_projected_at() -> None:
    with pytest.raises(ValueError, match="projection at 30°"):
        MeshImages(CountedMeshes(), **SIZE, cache_mb=0).projection("a", 30)


def test_rows_without_a_mesh() -> None:
    reader = CountedMeshes()
    with pytest.raises(DataError, match="without a mesh has no projection"):
        MeshImages(reader, **SIZE, cache_mb=1).projection(None, 0)
    fitted = MeshImages(reader, **SIZE, cache_mb=1, fit_missing=True).projection(None, 90)
    assert np.array_equal(fitted[0].numpy(), project(fitted_mesh(32, 16), 90, **SIZE))
    assert not reader.n_read


def test_normalisation_puts_white_at_one() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    expected = (bytes_.to(torch.float64) / 255 - 0.5) / 0.5
    found = normalize_projection(bytes_)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert found.flatten()[255] == 1.0


# Rendered images, as the released code reads them


def grey(seed: int, height: int = 24, width: int = 10) -> torch.Tensor:
    return torch.randint(0, 256, (1, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def write_views(folder: Path, name: str) -> dict[int, torch.Tensor]:
    views = {}
    for angle in ANGLES:
        place = folder / ("render" if angle == 0 else f"render_{angle}")
        place.mkdir(parents=True, exist_ok=True)
        views[angle] = grey(angle)
        write_png(views[angle], str(place / name))
    return views


def test_rendered_images_are_read_from_the_folder_of_their_angle(tmp_path: Path) -> None:
    views = write_views(tmp_path / "train", "0002_c1s1_000451_03.png")
    reader = CountedMeshes()
    images = MeshImages(reader, **SIZE, cache_mb=1)
    key = str(tmp_path / "train" / "render" / "0002_c1s1_000451_03.png")
    for angle in ANGLES:
        assert torch.equal(images.projection(key, angle), resize(views[angle], 32, 16))
    unscaled = MeshImages(reader, height=24, width=10, cache_mb=0)
    assert torch.equal(unscaled.projection(key, 135), views[135])
    assert not reader.n_read


def test_colour_renders_are_read_as_grey(tmp_path: Path) -> None:
    (tmp_path / "render").mkdir()
    pixels = torch.randint(0, 256, (3, 24, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (tmp_path / "render" / "a.jpg").write_bytes(encode_jpeg(pixels.repeat_interleave(4, 1)).numpy().tobytes())
    assert MeshImages(FileMeshes(), **SIZE, cache_mb=0).projection(str(tmp_path / "render" / "a.jpg"), 0).shape[0] == 1


def test_rendered_images_that_cannot_be_read(tmp_path: Path) -> None:
    write_views(tmp_path, "a.png")
    (tmp_path / "render_90" / "a.png").unlink()
    (tmp_path / "render_45" / "a.png").write_bytes(b"")
    (tmp_path / "render_180" / "a.png").write_bytes(b"no image")
    images, key = MeshImages(FileMeshes(), **SIZE, cache_mb=1), str(tmp_path / "render" / "a.png")
    with pytest.raises(DataError, match=r"Cannot read the rendered mesh .*render_90/a\.png: No such file"):
        images.projection(key, 90)
    for angle in (45, 180):
        with pytest.raises(DataError, match=rf"Cannot decode the rendered mesh .*render_{angle}/a\.png"):
            images.projection(key, angle)


def test_a_table_gets_the_rendered_images_of_its_photos(tmp_path: Path) -> None:
    for place, names in {"train": ["a.jpg", "b.jpg"], "test": ["a.jpg", "q.jpg"]}.items():
        (tmp_path / place / "render").mkdir(parents=True)
        for name in names:
            (tmp_path / place / "render" / name).write_bytes(b"")
    table = ImageTable.from_columns(
        path=["/photos/train/a.jpg", "/photos/train/c.jpg", "/photos/query/q.jpg", "/photos/test/a.jpg"],
        split=["train", "train", "query", "gallery"],
    )
    found = with_rendered(table, tmp_path)
    train, test = tmp_path / "train" / "render", tmp_path / "test" / "render"
    assert mesh_keys(found) == [str(train / "a.jpg"), None, str(test / "q.jpg"), str(test / "a.jpg")]
    assert rows_with_mesh(found).tolist() == [0, 2, 3]
    assert mesh_keys(with_rendered(found, tmp_path)) == mesh_keys(found)
    assert found.paths == table.paths
    with pytest.raises(DataError, match="There is no folder"):
        with_rendered(table, tmp_path / "elsewhere")


def test_tables_without_meshes() -> None:
    table = ImageTable.from_columns(path=["a", "b"])
    assert mesh_keys(table) == [None, None]
    assert rows_with_mesh(table).tolist() == []
    table = ImageTable.from_columns(path=["a", "b", "c"], extra={"mesh": [None, "m.npz", ""]})
    assert mesh_keys(table) == [None, "m.npz", None]
    assert rows_with_mesh(table).tolist() == [1]


# Check


def test_check_lists_every_fault_once(tmp_path: Path) -> None:
    good = fitted_mesh(64, 32)
    write_mesh(good, tmp_path / "good.npz")
    write_mesh(
        Mesh(good.vertices, np.ascontiguousarray(good.faces[:, ::-1]), good.camera, good.image_size),
        tmp_path / "inwards.npz",
    )
    write_mesh(
        Mesh(good.vertices, good.faces, good.camera + np.float32([0, 900, 0]), good.image_size), tmp_path / "out.npz"
    )
    write_mesh(Mesh(-good.vertices, good.faces, good.camera, good.image_size), tmp_path / "behind.npz")
    write_views(tmp_path, "r.png")
    (tmp_path / "render_90" / "r.png").unlink()
    (tmp_path / "render_45" / "r.png").write_bytes(b"no image")
    names = ["good.npz", "inwards.npz", "out.npz", "behind.npz", "none.npz", "render/r.png"]
    cells = [None, *(str(tmp_path / name) for name in names), str(tmp_path / "none.npz")]
    table = ImageTable.from_columns(path=[str(i) for i in range(len(cells))], extra={"mesh": cells})
    found = mesh_problems(table, FileMeshes())
    assert [(problem.kind, Path(problem.path).relative_to(tmp_path).as_posix()) for problem in found] == [
        ("unreadable", "behind.npz"),
        ("unreadable", "inwards.npz"),
        ("missing", "none.npz"),
        ("unreadable", "out.npz"),
        ("unreadable", "render_45/r.png"),
        ("missing", "render_90/r.png"),
    ]
    for problem, said in zip(
        found, ["behind the camera", "point inwards", "Cannot read", "in its image"], strict=False
    ):
        assert said in problem.detail
    assert mesh_problems(ImageTable.from_columns(path=["a"]), FileMeshes()) == []


# The average body


@pytest.mark.parametrize(("height", "width"), [(256, 128), (128, 64), (100, 90), (128, 30)])
def test_the_average_body_fills_its_box(height: int, width: int) -> None:
    drawn = project(fitted_mesh(height, width), 0, height=height, width=width) < 255
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    margins = (rows[0] / height, 1 - (rows[-1] + 1) / height, columns[0] / width, 1 - (columns[-1] + 1) / width)
    assert min(margins) > MARGIN - 1 / min(height, width)
    assert min(max(margins[:2]), max(margins[2:])) < 0.10
    assert abs(columns[0] - (width - 1 - columns[-1])) <= 1
    for angle in ANGLES:
        turned = project(fitted_mesh(height, width), angle, height=height, width=width)
        assert 0.02 < (turned < 255).mean() < 0.6


def test_the_average_body_is_closed_and_of_human_size() -> None:
    vertices, faces = average_body()
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges), "no edge twice in the same direction"
    assert directed == {(b, a) for a, b in directed}, "each edge has a neighbour"
    height, width = np.ptp(vertices[:, 1]), np.ptp(vertices[:, 0])
    assert 1.6 < height < 1.8
    assert 0.4 < width < 0.7
    assert 0.05 < signed_volume(fitted_mesh(64, 32)) < 0.09
    mirrored = vertices * [-1, 1, 1]
    nearest = np.abs(vertices[:, None, :] - mirrored[None, ::7, :]).sum(axis=2).min(axis=0)
    assert nearest.max() < 0.03
