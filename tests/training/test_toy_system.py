"""The shape of methods carries one that uses all of it at once: stages, streams, optimizers, noise, caches.

`toy_system` is a method outside the package. It must end with the same weights whatever the number of workers, whatever
was killed in between, in any stage, and on Ray as in one process; and the package must have no case for any method.
"""

import ast
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_processes import fork_workers
from small_runs import assert_bit_equal, largest_relative_difference, newest_state, numbers_of
from toy_system import OVERRIDES, write_images

from reid_ray.api import train
from reid_ray.config import METHOD_CONFIGS, dump_config, load_config
from reid_ray.data.readers import read_dataset
from reid_ray.methods import METHODS
from reid_ray.training.inline import train_inline
from reid_ray.training.rundir import RunDirectory

TESTS = Path(__file__).parents[1]


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def toy(tmp_path, images):
    """`toy("key=value", …)`: the configuration of a run of the toy."""
    return lambda *overrides: load_config("demo", [*OVERRIDES, f"data.root={images}", f"output={tmp_path}", *overrides])


def killer(stage, kind, number):
    def listen(event):
        if event["event"] == kind and event["stage"] == stage and event.get("step", number) == number:
            raise KilledError

    return listen


MOMENTS = [
    ("identity", "start", 0),
    ("identity", "step", 2),
    ("identity", "evaluate", 0),
    ("generate", "start", 0),
    ("generate", "step", 5),
    ("refine", "start", 0),
    ("refine", "refresh", 0),
    ("refine", "step", 2),
    ("refine", "evaluate", 0),
]


def test_killed_in_every_stage_it_ends_bit_equal(toy):
    options = ("training.checkpoint_every=2",)
    undisturbed = train(toy("name=undisturbed", *options))
    for moment in MOMENTS:
        with pytest.raises(KilledError):
            train(toy("name=killed", *options), listener=killer(*moment))
    killed = train(toy("name=killed", *options))
    assert_bit_equal(newest_state(undisturbed.directory), newest_state(killed.directory))
    steps = [(event["stage"], event["epoch"], event["step"]) for event in killed.metrics("step")]
    assert steps == [(event["stage"], event["epoch"], event["step"]) for event in undisturbed.metrics("step")]
    assert len(steps) == len(set(steps)) == 3 + 7 + 2 * 3


def test_what_a_stage_freezes_stays_as_it_is(toy):
    run = train(toy())
    after_identity, final = (
        torch.load(run.directory.model_file(which), weights_only=True)["model"] for which in ("identity", "generate")
    )
    assert after_identity.keys() == final.keys()
    assert all(torch.equal(after_identity[name], final[name]) for name in final), "parameters and BN buffers"
    head = newest_state(run.directory)["modules"]["head"]
    assert all(torch.equal(head[f"encoder.{name}"], tensor) for name, tensor in final.items())
    features = run.embed_table(run.dataset.query)
    assert features.shape == (3, 8)


def test_the_features_that_a_stage_trains_on_are_extracted_once(toy):
    run = train(toy())
    assert [path.name for path in (run.path / "features").iterdir()] == ["refine-train.npy"]
    file = run.directory.features_file("refine", "train")
    before = file.stat().st_mtime_ns
    train(toy("training.epochs=3"))
    assert file.stat().st_mtime_ns == before


SIZES = (1, 2, 4)


def worker(rank, size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{size}", rank=rank, world_size=size)
    config = load_config(folder / f"workers-{size}.yaml")
    train_inline(config, {"data": read_dataset(config.data)})
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_two_and_four_workers_end_with_the_same_weights(toy, tmp_path):
    configs = {size: toy(f"name=workers-{size}", f"runtime.n_workers={size}") for size in SIZES}
    for config in configs.values():
        (tmp_path / f"{config.name}.yaml").write_text(dump_config(config))
    for size in SIZES:
        fork_workers(partial(worker, folder=tmp_path), size)
    numbers = {size: numbers_of(newest_state(RunDirectory.of(config))) for size, config in configs.items()}
    assert largest_relative_difference(numbers[1], numbers[2]) < 1e-6
    assert largest_relative_difference(numbers[1], numbers[4]) < 1e-6


@pytest.mark.ray
def test_on_ray_it_computes_what_one_process_computes(toy, local_ray):
    inline = train(toy("name=inline"))
    on_ray = train(toy("name=on-ray", "runtime.backend=ray", "runtime.n_workers=2", "runtime.n_extractors=2"))
    expected, found = numbers_of(newest_state(inline.directory)), numbers_of(newest_state(on_ray.directory))
    assert largest_relative_difference(expected, found) < 1e-6


PACKAGE = TESTS.parent / "reid_ray"
OUTSIDE = [
    path
    for folder in (PACKAGE, TESTS.parent / "tuning", TESTS.parent / "jobs")
    for path in sorted(folder.rglob("*.py"))
    if "methods" not in path.relative_to(folder).parts
]


def cases_for_a_method(path):
    """`isinstance` on a method or its settings, and comparisons of a method's name, as FILE:LINE."""
    classes = {cls.__name__ for cls in (*METHODS.values(), *METHOD_CONFIGS.values())}
    names = set(METHODS)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
            and classes & {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
        ):
            yield f"{path}:{node.lineno}"
        if isinstance(node, ast.Compare):
            constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            on_name = any(isinstance(part, ast.Attribute) and part.attr == "name" for part in ast.walk(node))
            if on_name and constants & names:
                yield f"{path}:{node.lineno}"


def test_nothing_outside_a_method_s_own_files_has_a_case_for_it(tmp_path):
    assert [case for path in OUTSIDE for case in cases_for_a_method(path)] == []
    (tmp_path / "cases.py").write_text("isinstance(method, (str, ICE))\nis_ice = config.method.name == 'ice'\n")
    assert len(list(cases_for_a_method(tmp_path / "cases.py"))) == 2
