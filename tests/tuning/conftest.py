"""Searches without Ray: a phase, its study, and trials whose results a test chooses."""

import pytest
from ray.tune.utils.util import flatten_dict
from small_runs import tiny_config

from reid_ray.tuning.phases import search_phase
from reid_ray.tuning.request import SearchDirectory, make_request
from reid_ray.tuning.searcher import StudySearch
from reid_ray.tuning.study import Outcome, open_storage, open_study, sampler

WANTED = ["labels.eps=.3:.8", "labels.k1=4:12", "method.temperature_hard=.05:.3:log"]


class Told:
    """A phase whose trials end with the results passed to `tell`, through the searcher that Ray Tune calls."""

    def __init__(self, request):
        self.request = request
        self.stage = search_phase(request)
        self.directory = SearchDirectory.of(request)
        with self.directory.owned(request):
            (self.directory.trials / "0a1b2c3d").mkdir()  # as if a trial had begun
        self.n_told = 0
        self.restart()

    def restart(self):
        """As another process finds it."""
        self.storage = open_storage(self.directory.journal)
        self.study = open_study(self.storage, self.stage)
        drawn = sampler(self.stage, 12, len(self.study.trials))
        self.searcher = StudySearch(self.stage, self.storage, drawn, self._count)
        self._number = 0

    def _count(self):
        self.n_told += 1

    def ask(self):
        """The next trial's name for Ray Tune, and its values."""
        self._number += 1
        return str(self._number), self.searcher.suggest(str(self._number))

    def tell(self, trial, *scores, state="complete", reason="", final=True, swept=None):
        names = [name for name in ("model_score", "mAP") if name in self.searcher.metric]
        result = dict(zip([*names, "hours"], scores, strict=False))
        outcome = Outcome(state, scores[0], reason, {"seconds": 3.0, "epochs": 2.0}, swept or {})
        result |= {"outcome": outcome, "epoch": 2, "final": final, "training_iteration": 1}
        result = flatten_dict(result)  # as Ray Tune hands it on
        self.searcher.on_trial_result(trial, result)
        self.searcher.on_trial_complete(trial, result)


@pytest.fixture
def make_search(tmp_path):
    def start(*overrides, wanted=WANTED, **options):
        return Told(make_request(tiny_config(tmp_path, *overrides), name="s", wanted=wanted, **options))

    return start
