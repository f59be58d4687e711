"""A few hundred fuzzed inputs of every kind, in child processes; and proof that the fuzzer sees crashes and hangs.

`python benchmarks/fuzz.py` runs ten thousand.
"""

import fuzz
import numpy as np
import pytest
from fuzz_cases import KINDS, SHARES, arrays, images, lists
from fuzz_cases.kind import WrongValueError

CASES = {"lists": 80, "configurations": 40, "arrays": 80, "rankings": 50, "clusterings": 30}
"""Kinds that are read by Python; they are run in this process, which has imported everything."""

CASES_OF_FILES = {"images": 150, "packed": 40, "weights": 40}
"""Kinds that reach native code."""


def test_every_kind_is_run_here():
    assert {**CASES, **CASES_OF_FILES}.keys() == KINDS.keys() == SHARES.keys()


def check(report, n_cases):
    assert not report.n_faults, "\n\n".join(report.examples[:3])
    assert report.n_cases >= n_cases
    assert report.counts["read"]
    assert report.counts["refused"]


@pytest.mark.parametrize("kind", CASES)
def test_fuzzed_inputs_are_read_right_or_refused_in_words(kind, tmp_path):
    report = fuzz.Report()
    fuzz.run_here(kind, 1, CASES[kind], tmp_path, report.add)
    check(report, CASES[kind] * 3 // 4)  # Hypothesis leaves out what it has drawn before


@pytest.mark.parametrize("kind", CASES_OF_FILES)
def test_fuzzed_files_are_read_right_or_refused_in_words(kind):
    check(fuzz.fuzz(kind, CASES_OF_FILES[kind], seed=1), CASES_OF_FILES[kind])


SCRIPT = """
import json, os, pathlib, pickle, sys, time
kind, seed, n, folder = sys.argv[2:]
for i in range(int(n)):
    pathlib.Path(folder, "last.pickle").write_bytes(pickle.dumps(f"input {i}"))
    if kind == "crash" and i == 2:
        os.kill(os.getpid(), 11)
    if kind == "hang" and i == 2:
        time.sleep(60)
    print(json.dumps({"outcome": "read"}), flush=True)
"""


@pytest.mark.parametrize("kind", ["crash", "hang"])
def test_a_process_that_crashes_or_hangs_is_one_fault_and_the_cases_continue(kind, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(SCRIPT)
    report = fuzz.fuzz(kind, 5, hang_seconds=5, script=str(script))
    assert report.counts == {"read": 4, kind: 1}
    assert report.n_faults == 1
    assert "input 2" in report.examples[0]


def test_a_process_that_cannot_start_is_an_error(tmp_path):
    script = tmp_path / "child.py"
    script.write_text("1 / 0")
    with pytest.raises(RuntimeError, match="has run no case"):
        fuzz.fuzz("images", 3, script=str(script))


def test_other_exceptions_and_other_values_are_faults_with_their_input(tmp_path):
    def fails(error):
        def check(drawn, folder):
            raise error

        return check

    assert fuzz.try_case(lambda drawn, folder: "read", 3, tmp_path) == {"outcome": "read"}
    wrong = fuzz.try_case(fails(WrongValueError("1 instead of 2")), "the input", tmp_path)
    assert (wrong["outcome"], "1 instead of 2; input 'the input'" in wrong["example"]) == ("wrong", True)
    other = fuzz.try_case(fails(KeyError("x")), "the input", tmp_path)
    assert other["outcome"] == "traceback"
    assert "KeyError: 'x'" in other["example"]


def test_the_oracles_find_planted_faults(tmp_path, monkeypatch):
    """Readers are broken: a decoder that knows no orientation, a list that keeps 'nan', arrays of two channels."""
    number = max(i for i, (kind, _) in enumerate(images.originals()) if kind == "PNG")  # has an orientation
    assert fuzz.try_case(images.check_image, (number, [], None), tmp_path)["outcome"] == "read"
    monkeypatch.setattr("reid_ray.data.decoding._TO_UPRIGHT", {})
    assert fuzz.try_case(images.check_image, (number, [], None), tmp_path)["outcome"] == "wrong"

    monkeypatch.setattr("reid_ray.data.readers.listed.UNKNOWN_NAMES", frozenset({""}))
    drawn = {
        "names": ["a.png", "b.png"],
        "splits": None,
        "written": ["train"] * 2,
        "pid": [(None, "nan"), (3, "3")],
        "camid": [(1, "1"), (2, "2")],
        "separator": ",",
        "encoding": "utf-8",
        "newline": "\n",
        "header": str,
        "parquet": False,
        "damages": [],
    }
    assert fuzz.try_case(lists.check_list, drawn, tmp_path)["outcome"] == "wrong"

    monkeypatch.setattr("reid_ray.data.arrays._N_CHANNELS", (1, 2, 3, 4))
    array = np.zeros((2, 2, 2), "uint8")
    assert fuzz.try_case(arrays.check_array, (array, "numpy", "rgb"), tmp_path)["outcome"] == "wrong"
