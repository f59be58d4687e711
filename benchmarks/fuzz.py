"""Fuzz readers and algorithms with thousands of damaged and absurd inputs, and print the outcomes.

    python benchmarks/fuzz.py --cases 10000

Inputs are image files of every format, truncated, changed and with false headers; lists, configurations, arrays,
rankings, clusterings, packed datasets and weights files. Cases run in child processes, so that a crash of native code
or a hang counts as one case and does not end the run. A correct outcome equals the result of a slow oracle or is a
`UserError`; everything else is a bug, and its input is printed. The exit code is 0 if there is none.
"""

from __future__ import annotations

import argparse
import json
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES_PER_PROCESS = 500
HANG_SECONDS = 60.0
"""Time limit of one case; the first also starts Python and compiles kernels."""

END = ""
"""Replaces a line when a process has ended."""

COUNTS = ("read", "refused", "traceback", "wrong", "hang", "crash")
FAULTS = COUNTS[2:]


@dataclass
class Report:
    """Outcomes of the cases of a kind.

    Attributes:
        counts: outcome → number of cases.
        examples: descriptions of faults.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, event: dict[str, str]) -> None:
        """Count a case by its `outcome`, and store the `example` of a fault."""
        self.counts[event["outcome"]] += 1
        if "example" in event:
            self.examples.append(event["example"])

    @property
    def n_cases(self) -> int:
        return self.counts.total()

    @property
    def n_faults(self) -> int:
        return sum(self.counts[name] for name in FAULTS)


def fuzz(
    kind: str, n_cases: int, *, seed: int = 0, hang_seconds: float = HANG_SECONDS, script: str = __file__
) -> Report:
    """Run cases of a kind in child processes; a process that crashes or hangs is replaced, and its case is counted.

    Args:
        script: run as `script --child KIND SEED CASES FOLDER`, prints a line of JSON for each case.
    """
    report = Report()
    while report.n_cases < n_cases:
        n_wanted = min(CASES_PER_PROCESS, n_cases - report.n_cases)
        n_before = report.n_cases
        _run_child([script, "--child", kind, str(seed), str(n_wanted)], report, hang_seconds)
        seed += 1
        if report.n_cases == n_before:
            raise RuntimeError(f"a process has run no case; try: python {script} --child {kind} 0 1 FOLDER")
    return report


def _run_child(command: Sequence[str], report: Report, hang_seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="reid-fuzz-") as folder:
        child = subprocess.Popen(
            [sys.executable, *command, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_forward, args=(child, lines), daemon=True)
        reader.start()
        hangs = False
        while True:
            try:
                line = lines.get(timeout=hang_seconds)
            except queue.Empty:
                hangs = True
                child.kill()
                report.add({"outcome": "hang", "example": f"no end after {hang_seconds:.0f} s: {_last(folder)}"})
                break
            if line == END:
                break
            report.add(json.loads(line))
        code = child.wait()
        reader.join()
        if code < 0 and not hangs:
            report.add({"outcome": "crash", "example": f"ended by signal {-code}: {_last(folder)}"})


def _forward(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        lines.put(line)
    lines.put(END)


def _last(folder: str) -> str:
    """The input of a child when it ended."""
    file = Path(folder) / "last.pickle"
    return repr(pickle.loads(file.read_bytes())) if file.exists() else "no input yet"


def try_case(check: Callable[[Any, Path], str], drawn: Any, folder: Path) -> dict[str, str]:
    """Outcome of one case, with its input if it is a fault."""
    from fuzz_cases.kind import WrongValueError

    try:
        return {"outcome": check(drawn, folder)}
    except WrongValueError as error:
        return {"outcome": "wrong", "example": f"{error}; input {drawn!r}"}
    except Exception:
        return {"outcome": "traceback", "example": f"{traceback.format_exc()}input {drawn!r}"}


def run_here(kind: str, seed: int, n_cases: int, folder: Path, answer: Callable[[dict[str, str]], None]) -> None:
    """Generate and run cases in this process; each input is saved before it is tried."""
    import hypothesis
    from fuzz_cases import KINDS

    def one(drawn: Any) -> None:
        (folder / "last.pickle").write_bytes(pickle.dumps(drawn))
        answer(try_case(KINDS[kind].check, drawn, folder))

    settings = hypothesis.settings(
        max_examples=n_cases,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(settings(hypothesis.given(KINDS[kind].strategy)(one)))()


def main(arguments: Sequence[str] | None = None) -> int:
    from fuzz_cases import KINDS, SHARES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--child", nargs=4, metavar=("KIND", "SEED", "CASES", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        kind, seed, n_cases, folder = given.child
        warnings.simplefilter("ignore")
        run_here(kind, int(seed), int(n_cases), Path(folder), lambda event: print(json.dumps(event), flush=True))
        return 0
    total = sum(SHARES[kind] for kind in given.kinds)
    reports, began = {}, time.monotonic()
    print(f"{'kind':<16}{'cases':>8}" + "".join(f"{name:>11}" for name in COUNTS))
    for kind in given.kinds:
        reports[kind] = fuzz(kind, round(given.cases * SHARES[kind] / total), seed=given.seed)
        counts = reports[kind].counts
        print(f"{kind:<16}{reports[kind].n_cases:>8}" + "".join(f"{counts[name]:>11}" for name in COUNTS), flush=True)
    n_faults = sum(report.n_faults for report in reports.values())
    n_cases = sum(report.n_cases for report in reports.values())
    print(f"{n_cases} cases in {time.monotonic() - began:.0f} s, {n_faults} faults")
    for report in reports.values():
        for example in report.examples[:5]:
            print(f"\n{example}")
    return 1 if n_faults else 0


if __name__ == "__main__":
    sys.exit(main())
