"""Views of body meshes, through the ordinary loader: the same pixels as a projection by hand."""

import numpy as np
import pytest
import torch
from small_streams import Data, stage_with

from reid_ray.config import DataConfig, load_config, with_absolute_paths
from reid_ray.data.check import check
from reid_ray.data.images import Dataset, FileImages
from reid_ray.data.meshes import ANGLES, FileMeshes, fitted_mesh, mesh_reader, normalize_projection, project, write_mesh
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.data.views import make_view, view_rng
from reid_ray.errors import DataError, MethodError
from reid_ray.methods import StreamSpec
from reid_ray.training.checks import check_streams, check_tables
from reid_ray.training.distributed import DistributedContext

VIEWS = {"image": "resize", "front": "projection@0", "side": "projection@90", "novel": "projection@seven"}
SHUFFLED = ("training.sampler=shuffle", "training.iterations=2", "training.precision=float32")


@pytest.fixture
def config(tiny):
    return tiny(*SHUFFLED)


@pytest.fixture
def stage(config):
    return stage_with(config, train=StreamSpec(VIEWS))


def test_a_batch_has_the_projections_of_its_rows(config, stage):
    data = Data(config, stage)
    table, reader = data.tables["data"], mesh_reader(config.data)
    keys = table.arrow["mesh"].to_pylist()
    n = config.training.batch_size
    for batch in data.batches():
        inputs = batch["train"]
        assert inputs.views["image"].shape == (n, 3, 32, 16)
        for place, row in enumerate(inputs.rows.tolist()):
            expected = {angle: project(reader.read(keys[row]), angle, height=32, width=16) for angle in ANGLES}
            of = {angle: normalize_projection(torch.from_numpy(image)[None]) for angle, image in expected.items()}
            assert torch.equal(inputs.views["front"][place], of[0])
            assert torch.equal(inputs.views["side"][place], of[90])
            assert any(torch.equal(inputs.views["novel"][place], of[angle]) for angle in ANGLES[1:])


def test_novel_angles_do_not_depend_on_the_worker(config, stage):
    whole = Data(config, stage).batches()
    parts = [Data(config, stage, context=DistributedContext(rank, 4)).batches() for rank in range(4)]
    for batch, *others in zip(whole, *parts, strict=True):
        joined = torch.cat([other["train"].views["novel"] for other in others])
        assert torch.equal(joined, batch["train"].views["novel"])


@pytest.mark.parametrize(("name", "angles"), [("seven", ANGLES[1:]), ("six", ANGLES[1:7]), ("135", (135,))])
def test_which_angles_are_drawn(name, angles):
    view = make_view(f"projection@{name}", DataConfig())
    counts = dict.fromkeys(angles, 0)

    def item(angle):
        counts[angle] += 1
        return torch.zeros(1, 4, 2, dtype=torch.uint8)

    for slot in range(700):
        view(item, view_rng(0, 0, slot, 0, 0))
    assert min(counts.values()) > 0.6 * 700 / len(angles)


def test_an_angle_that_there_is_not(config, stage):
    spec = StreamSpec({"front": "projection@46"})
    with pytest.raises(MethodError, match="no view 'projection@46'; did you mean 'projection@45'"):
        check_streams(stage_with(config, train=spec), config)


@pytest.fixture
def crops(tmp_path):
    """Six images on disk, of which four have a mesh."""
    rows = []
    for number in range(6):
        mesh = None
        if number not in (1, 4):
            mesh = str(tmp_path / f"{number}.npz")
            write_mesh(fitted_mesh(64, 18 + 4 * number), tmp_path / f"{number}.npz")
        rows.append((f"{number}.jpg", number, mesh))
    extra = {"mesh": [mesh for *_, mesh in rows]}
    paths, pids = [path for path, *_ in rows], [pid for _, pid, _ in rows]
    return Dataset(
        ImageTable.from_columns(path=paths, pid=pids, split="train", extra=extra, name="crops"), FileImages()
    )


def test_rows_without_a_mesh_are_left_out_of_its_streams(tiny, crops):
    config = tiny(*SHUFFLED, "data.layout=csv", "data.root=list.csv")
    turned, plain = StreamSpec({"front": "projection@0"}), StreamSpec({"image": "resize"})
    found = Data(config, stage_with(config, train=turned, plain=plain), {"data": crops}).plan()
    assert set(found["train"].ravel().tolist()) == {0, 2, 3, 5}
    assert set(found["plain"].ravel().tolist()) == set(range(6))
    fitted = tiny(*SHUFFLED, "data.layout=csv", "data.root=list.csv", "data.meshes.fit_missing=true")
    data = Data(fitted, stage_with(fitted, train=turned), {"data": crops})
    assert set(data.plan()["train"].ravel().tolist()) == set(range(6))
    average = normalize_projection(torch.from_numpy(project(fitted_mesh(32, 16), 0, height=32, width=16))[None])
    for batch in data.batches():
        for row, view in zip(batch["train"].rows.tolist(), batch["train"].views["front"], strict=True):
            assert torch.equal(view, average) == (row in (1, 4))


def test_a_table_without_meshes(tiny, crops):
    config = tiny(*SHUFFLED, "data.layout=csv", "data.root=list.csv")
    stage = stage_with(config, train=StreamSpec({"front": "projection@0"}))
    check_tables([stage], {"data": crops}, config)
    bare = Dataset(ImageTable(crops.table.arrow.drop_columns(["mesh"]), "crops"), FileImages())
    message = "^crops has no body meshes in its training split, which the stage main needs to rotate people; "
    with pytest.raises(DataError, match=message):
        check_tables([stage], {"data": bare}, config)
    check_tables([stage], {"data": bare}, tiny("data.meshes.fit_missing=true"))


def test_rendered_meshes_become_a_column(tmp_path):
    from torchvision.io import write_jpeg, write_png

    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 64, 32), dtype=np.uint8))
    for split in ("train", "query", "gallery"):
        (tmp_path / "crops" / split).mkdir(parents=True)
        write_jpeg(image, str(tmp_path / "crops" / split / "0001_c1.jpg"))
        write_jpeg(image, str(tmp_path / "crops" / split / "0002_c1.jpg"))
    for folder in ("render", *(f"render_{angle}" for angle in ANGLES[1:])):
        (tmp_path / "meshes" / "train" / folder).mkdir(parents=True)
        write_png(image[:1], str(tmp_path / "meshes" / "train" / folder / "0001_c1.jpg"))
    root = {"layout": "folder", "root": str(tmp_path / "crops"), "meshes": {"rendered": str(tmp_path / "meshes")}}
    config = DataConfig.model_validate(root)
    keys = read_dataset(config).train.arrow["mesh"].to_pylist()
    assert keys == [str(tmp_path / "meshes/train/render/0001_c1.jpg"), None]
    report = check(config)
    assert "1 of 6 images have a body mesh" in report.notes
    assert {problem.kind for problem in report.problems} == {"duplicate"}
    (tmp_path / "meshes/train/render_45/0001_c1.jpg").unlink()
    (missing,) = [problem for problem in check(config).problems if problem.kind == "missing"]
    assert missing.path.endswith("render_45/0001_c1.jpg")


def test_the_check_looks_at_every_mesh(tmp_path, crops):
    from torchvision.io import write_png

    lines = ["path,pid,split,mesh"]
    for number, (path, mesh) in enumerate(zip(crops.table.paths, crops.table.arrow["mesh"].to_pylist(), strict=True)):
        pixels = torch.full((3, 64, 32), 40 * number, dtype=torch.uint8)
        write_png(pixels, str(tmp_path / path))
        lines.append(f"{path},{number},train,{mesh or ''}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    config = DataConfig(layout="csv", root=str(tmp_path / "list.csv"))
    report = check(config)
    assert report.clean
    assert "4 of 6 images have a body mesh" in report.notes
    (tmp_path / "2.npz").write_bytes(b"no archive")
    (problem,) = check(config).problems
    assert (problem.kind, problem.path) == ("unreadable", str(tmp_path / "2.npz"))


def test_where_meshes_are_read_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config("demo", ["data.meshes={faces_file: faces.npz, body_model: smpl.npz, rendered: drawn}"])
    meshes = with_absolute_paths(config).data.meshes
    assert meshes.rendered == str(tmp_path / "drawn")
    on_disk = DataConfig(layout="csv", root="x", meshes=meshes)
    assert mesh_reader(on_disk) == FileMeshes(str(tmp_path / "faces.npz"), str(tmp_path / "smpl.npz"))
