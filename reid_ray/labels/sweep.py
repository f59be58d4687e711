"""Many settings of the labels on the same features, where all that settings share is computed once.

One search for neighbours, as long as the longest list; one encoding for each Jaccard variant, k1 and k2; one graph for
each encoding; then DBSCAN and the scores for each eps and min_samples. What comes out are the clusters that a refresh
with that setting would give, all judged by the same measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from itertools import product
from typing import Any

import torch
from scipy.sparse import csr_array

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.encoding import JaccardParams, NeighbourLists, Variant, expand_queries, reciprocal_weights
from reid_ray.labels.features import check_features
from reid_ray.labels.jaccard import graph_of_weights
from reid_ray.labels.label_free import COMMON, COMMON_DISTANCE, label_free_objective, label_free_scores
from reid_ray.labels.neighbours.exact import nearest, nearest_by_camera
from reid_ray.labels.neighbours.products import Centre, find_centre
from reid_ray.labels.quality import label_statistics, truth_scores
from reid_ray.types import UNKNOWN, FeatureRows, IntArray

MAX_SETTINGS = 10_000


@dataclass(frozen=True)
class Setting:
    """The settings of a refresh that a sweep varies; names and defaults are those of `labels` in the configuration."""

    variant: Variant = "spcl"
    k1: int = 30
    k2: int = 6
    k1_within: int = 5
    k2_within: int = 2
    eps: float = 0.55
    min_samples: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.eps < 1 or self.min_samples < 1:
            raise ConfigError(
                f"eps lies between 0 and 1 and min_samples is at least 1; here eps={self.eps}, "
                f"min_samples={self.min_samples}."
            )
        _ = self.scheme  # has checks of its own

    @classmethod
    def of(cls, labels: LabelsConfig) -> Setting:
        """The part of a refresh's settings that a sweep can vary; `ConfigError` where it knows no such refresh."""
        if labels.clusterer != "dbscan" or labels.rho is not None or labels.neighbours != "exact":
            raise ConfigError(
                "--sweep is for exact neighbours and DBSCAN with eps; drop clusterer, rho and neighbours."
            )
        return cls(**{field.name: getattr(labels, field.name) for field in fields(cls)})

    @property
    def scheme(self) -> JaccardParams:
        """The encoding, without what the variant does not read."""
        if self.variant == "camera":
            return JaccardParams(self.variant, self.k1, self.k2, self.k1_within, self.k2_within)
        return JaccardParams(self.variant, self.k1, self.k2)


def sweep(
    features: FeatureRows,
    settings: Sequence[Setting],
    camids: IntArray | None = None,
    previous: IntArray | None = None,
    pids: IntArray | None = None,
    device: torch.device | str | None = None,
    memory_mb: int = 1024,
    on_setting: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """What each setting gives.

    Clusters are those of a refresh. Silhouettes are taken in the graph of `common_graph` for all settings, so that they
    can be compared; those of a refresh are of the graph that it has, which ends at its eps.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N], for the variant `camera` and the scores of cameras.
        previous: int64 [N], labels before, for `stability`.
        pids: int64 [N], for the scores by truth.
        device: where neighbours are searched.
        memory_mb: memory of the search, beyond features and lists.
        on_setting: called with each result as it comes, which is in the order of computation.

    Returns:
        For each setting, in their order: its fields, `n_clusters`, `n_outliers`, `size_max`, `label_free`
        (`label_free_objective`), the keys of `label_free_scores` and, where a pid is known, of `truth_scores`; and
        `seconds` of what it does not share with other settings (DBSCAN and scores).

    Raises:
        ConfigError: the variant `camera` without camids.
        DataError: features that are not finite or not normalised.
    """
    if not settings:
        return []
    check_features(features)
    centre = find_centre(features)
    known_pids = pids if pids is not None and (pids != UNKNOWN).any() else None
    max_distance = max(setting.eps for setting in settings)
    common: csr_array | None = None
    results: dict[int, dict[str, Any]] = {}
    schemes = dict.fromkeys([COMMON, *(setting.scheme for setting in settings)])
    for scheme, weights in _encodings(features, schemes, camids, centre, device, memory_mb):
        if common is None:
            common = graph_of_weights(weights, COMMON_DISTANCE)
        chosen = [at for at, setting in enumerate(settings) if setting.scheme == scheme]
        if not chosen:
            continue
        graph = graph_of_weights(weights, max_distance)
        for at in chosen:
            results[at] = _result(settings[at], graph, common, camids, previous, known_pids)
            if on_setting:
                on_setting(results[at])
    return [results[at] for at in range(len(settings))]


def parse_grid(texts: Sequence[str], base: Setting | None = None) -> list[Setting]:
    """All combinations of what texts such as `eps=.4:.7:.05` and `k1=20,30` list, the last text varying fastest.

    A range is START:STOP:STEP with STOP included where a step meets it; ranges and values can be joined by commas.

    Args:
        base: what the settings have where no text says otherwise.

    Raises:
        ConfigError: an unknown name, a value that is none, a range that does not end, more than `MAX_SETTINGS`.
    """
    names: list[str] = []
    choices: list[list[Any]] = []
    for text in texts:
        name, (_, equals, listed) = swept_name(text), text.partition("=")
        known = [field.name for field in fields(Setting)]
        if not equals or name not in known:
            raise ConfigError(
                f"'{text}' is not something to sweep; write NAME=VALUES with a name of {', '.join(known)}."
            )
        if name in names:
            raise ConfigError(f"{name} is swept twice; list all its values in one place, as {name}=A,B.")
        names.append(name)
        choices.append([value for part in listed.split(",") for value in _values(name, part.strip(), text)])
    n_settings = 1
    for values in choices:
        n_settings *= len(values)
    if n_settings > MAX_SETTINGS:
        raise ConfigError(f"These ranges make {n_settings:,} settings; {MAX_SETTINGS:,} are the most a sweep takes.")
    start = base or Setting()
    return [replace(start, **dict(zip(names, combination, strict=True))) for combination in product(*choices)]


def swept_name(text: str) -> str:
    """The field of `Setting` that a text such as `eps=.4:.7:.05` or `labels.k1=20,30` is about."""
    return text.partition("=")[0].strip().removeprefix("labels.")


def _values(name: str, part: str, text: str) -> list[Any]:
    """What one part between commas stands for."""
    if name == "variant":
        return [part]
    is_whole = name != "eps"
    try:
        numbers = [Decimal(piece) for piece in part.split(":")]
    except InvalidOperation:
        raise ConfigError(f"'{part}' in '{text}' is neither a number nor a range START:STOP:STEP.") from None
    if len(numbers) not in (1, 3) or not all(number.is_finite() for number in numbers):
        raise ConfigError(f"'{part}' in '{text}' is neither a number nor a range START:STOP:STEP.")
    if is_whole and any(number != int(number) for number in numbers):
        raise ConfigError(f"{name} is a whole number, and '{part}' in '{text}' is not.")
    if len(numbers) == 3:
        first, last, step = numbers
        if step <= 0 or last < first:
            raise ConfigError(
                f"The range '{part}' in '{text}' does not lead upwards; write START:STOP:STEP, as .4:.7:.1."
            )
        n_steps = int((last - first) / step)
        if n_steps >= MAX_SETTINGS:
            raise ConfigError(f"The range '{part}' in '{text}' has more than {MAX_SETTINGS:,} values.")
        numbers = [first + step * at for at in range(n_steps + 1)]
    return [int(number) if is_whole else float(number) for number in numbers]


def _encodings(
    features: FeatureRows,
    schemes: Iterable[JaccardParams],
    camids: IntArray | None,
    centre: Centre,
    device: torch.device | str | None,
    memory_mb: int,
) -> Iterator[tuple[JaccardParams, csr_array]]:
    """V of each scheme, one at a time; k-reciprocal weights are shared by those that differ in the expansion only.

    The first scheme comes first, unless it is by camera.
    """
    for by_camera in (False, True):
        chosen = [scheme for scheme in schemes if scheme.by_camera == by_camera]
        if not chosen:
            continue
        lists = _longest_lists(features, chosen, camids, centre, device, memory_mb)
        for base in dict.fromkeys(_without_expansion(scheme) for scheme in chosen):
            weights = reciprocal_weights(features, lists, base)
            for scheme in chosen:
                if _without_expansion(scheme) == base:
                    yield scheme, expand_queries(weights, lists, scheme)


def _without_expansion(scheme: JaccardParams) -> JaccardParams:
    return replace(scheme, k2=1, k2_within=1)


def _longest_lists(
    features: FeatureRows,
    schemes: Sequence[JaccardParams],
    camids: IntArray | None,
    centre: Centre,
    device: torch.device | str | None,
    memory_mb: int,
) -> NeighbourLists:
    """Lists that begin with those of each scheme, whether by camera or not."""
    if schemes[0].by_camera:
        if camids is None:
            raise ConfigError("The Jaccard variant 'camera' needs the camera of each row; give camids, or use 'spcl'.")
        k_within = max(max(scheme.k1_within + 1, scheme.k2_within) for scheme in schemes)
        k_across = max(max(scheme.k1 + 1, scheme.k2) for scheme in schemes)
        return NeighbourLists(
            *nearest_by_camera(features, camids, k_within, k_across, centre=centre, device=device, memory_mb=memory_mb)
        )
    k = max(scheme.n_neighbours for scheme in schemes)
    least = any(scheme.variant == "cvpr17" for scheme in schemes)
    return NeighbourLists(nearest(features, k, least=least, centre=centre, device=device, memory_mb=memory_mb))


def _result(
    setting: Setting,
    graph: csr_array,
    common: csr_array,
    camids: IntArray | None,
    previous: IntArray | None,
    pids: IntArray | None,
) -> dict[str, Any]:
    started = time.perf_counter()
    labels = dbscan(graph, eps=setting.eps, min_samples=setting.min_samples)
    counts = label_statistics(labels)
    result = asdict(setting) | {name: counts[name] for name in ("n_clusters", "n_outliers", "size_max")}
    scores = label_free_scores(labels, common, camids, previous)
    result |= {"label_free": label_free_objective(scores), **scores}
    if pids is not None:
        result |= truth_scores(labels, pids)
    return result | {"seconds": time.perf_counter() - started}
