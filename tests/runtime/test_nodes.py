"""A cluster of several nodes on this machine, and runs that lose what they stand on. benchmarks/faults.py does more."""

import tempfile
from pathlib import Path

import pytest
from faults import FAULTS, Bench, Trial

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def trial():
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="rf-", dir="/tmp") as folder:
        for name, value in (("HOME", folder), ("OMP_NUM_THREADS", "1"), ("RAY_AUTH_MODE", "disabled")):
            patch.setenv(name, value)
        with Bench.of(Path(folder), n_nodes=3) as bench:
            yield Trial(bench)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["node", "driver"])
def test_nothing_is_lost_and_nothing_is_left_behind(trial, name):
    """The weights are those of the undisturbed run; the trial also looks for actors, placement groups and files."""
    outcome = trial.do(name)
    assert outcome.lost == "nothing", outcome


def test_the_table_has_twelve_faults_and_more():
    assert len(FAULTS) >= 12
