"""Score many label settings on the same features; steps that settings share are computed once.

One neighbour search for the longest list; one encoding per Jaccard variant, k1 and k2; one graph per encoding; then
DBSCAN and the scores for each eps and min_samples. The clusters are those of a refresh with that setting, and all are
judged in the same graphs (`objective`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from itertools import chain, product
from typing import Any

import torch
from scipy.sparse import csr_array

from reid_ray.config import LabelsConfig
from reid_ray.errors import ConfigError
from reid_ray.labels.clustering import dbscan
from reid_ray.labels.encoding import JaccardParams, NeighbourLists, Variant, expand_queries, reciprocal_weights
from reid_ray.labels.features import check_features
from reid_ray.labels.jaccard import graph_of_weights
from reid_ray.labels.label_free import label_free_scores
from reid_ray.labels.neighbours.exact import nearest, nearest_by_camera
from reid_ray.labels.neighbours.products import Centre, find_centre
from reid_ray.labels.objective import REFERENCES, label_free_objective, reference_graphs_of
from reid_ray.labels.quality import ground_truth_scores, label_statistics
from reid_ray.types import UNKNOWN, FeatureRows, IntArray

MAX_SETTINGS = 10_000


@dataclass(frozen=True)
class Setting:
    """The settings that a sweep can vary; names and defaults are those of the section `labels`."""

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
                f"eps must be between 0 and 1 and min_samples at least 1; got eps={self.eps}, "
                f"min_samples={self.min_samples}."
            )
        _ = self.params  # validates k1 and k2

    @classmethod
    def of(cls, labels: LabelsConfig) -> Setting:
        """The settings of a configuration that a sweep can vary; `ConfigError` if it cannot sweep this clusterer."""
        if labels.clusterer != "dbscan" or labels.rho is not None or labels.neighbours != "exact":
            raise ConfigError(
                "--sweep needs exact neighbours and DBSCAN with eps; remove clusterer, rho and neighbours."
            )
        if labels.constraints is not None:
            raise ConfigError("--sweep scores settings without constraints; remove labels.constraints.")
        return cls(**{field.name: getattr(labels, field.name) for field in fields(cls)})

    @property
    def params(self) -> JaccardParams:
        """The parameters of the encoding; those that the variant does not use have their defaults."""
        if self.variant == "camera":
            return JaccardParams(self.variant, self.k1, self.k2, self.k1_within, self.k2_within)
        return JaccardParams(self.variant, self.k1, self.k2)


def sweep(
    features: FeatureRows,
    settings: Sequence[Setting],
    camids: IntArray | None = None,
    previous: IntArray | None = None,
    pids: IntArray | None = None,
    tracklets: IntArray | None = None,
    device: torch.device | str | None = None,
    memory_mb: int = 1024,
    on_setting: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Cluster and score each setting.

    Clusters are those of a refresh. Silhouettes of all settings are computed in the first of `reference_graphs`, so
    they are comparable; those of a refresh are computed in its own graph, which ends at its eps.

    Args:
        features: float32 [N, D], L2-normalised.
        camids: int64 [N], for the variant `camera` and the camera scores.
        previous: int64 [N], previous labels, for `stability`.
        pids: int64 [N], for the ground-truth scores.
        tracklets: int64 [N], for `label_free`.
        device: where neighbours are searched.
        memory_mb: memory of the search, in addition to features and lists.
        on_setting: called with each result, in the order of computation.

    Returns:
        For each setting, in their order: its fields, `n_clusters`, `n_outliers`, `size_max`, `label_free`
        (`label_free_objective`), the keys of `label_free_scores` and, where a pid is known, of `ground_truth_scores`;
        and `seconds` of the steps that are not shared (DBSCAN and scores).

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
    results: dict[int, dict[str, Any]] = {}
    encodings = list(dict.fromkeys(setting.params for setting in settings))
    plain = [params for params in encodings if not params.by_camera]
    lists = _longest_lists(features, [*REFERENCES, *plain], camids, centre, device, memory_mb)
    references = reference_graphs_of(features, lists)
    by_camera = [params for params in encodings if params.by_camera]
    for params, weights in chain(
        _encodings(features, lists, plain),
        _encodings_by_camera(features, by_camera, camids, centre, device, memory_mb),
    ):
        graph = graph_of_weights(weights, max_distance)
        for at in (at for at, setting in enumerate(settings) if setting.params == params):
            results[at] = _result(settings[at], graph, references, camids, previous, known_pids, tracklets)
            if on_setting:
                on_setting(results[at])
    return [results[at] for at in range(len(settings))]


def parse_grid(texts: Sequence[str], base: Setting | None = None) -> list[Setting]:
    """All combinations of the values in texts such as `eps=.4:.7:.05` and `k1=20,30`; the last text varies fastest.

    A range is START:STOP:STEP; STOP is included if a step hits it. Commas join ranges and values.

    Args:
        base: values of the settings that no text names.

    Raises:
        ConfigError: an unknown name, an invalid value, an empty or endless range, more than `MAX_SETTINGS` settings.
    """
    names: list[str] = []
    choices: list[list[Any]] = []
    for text in texts:
        name, (_, equals, listed) = swept_name(text), text.partition("=")
        known = [field.name for field in fields(Setting)]
        if not equals or name not in known:
            raise ConfigError(f"'{text}' cannot be swept; write NAME=VALUES, with NAME one of {', '.join(known)}.")
        if name in names:
            raise ConfigError(f"{name} is swept twice; list all its values at once: {name}=A,B.")
        names.append(name)
        choices.append([value for part in listed.split(",") for value in _values(name, part.strip(), text)])
    n_settings = 1
    for values in choices:
        n_settings *= len(values)
    if n_settings > MAX_SETTINGS:
        raise ConfigError(f"These ranges give {n_settings:,} settings; the maximum is {MAX_SETTINGS:,}.")
    start = base or Setting()
    return [replace(start, **dict(zip(names, combination, strict=True))) for combination in product(*choices)]


def swept_name(text: str) -> str:
    """The field of `Setting` that a text such as `eps=.4:.7:.05` or `labels.k1=20,30` names."""
    return text.partition("=")[0].strip().removeprefix("labels.")


def _values(name: str, part: str, text: str) -> list[Any]:
    """The values of one comma-separated part."""
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
                f"The range '{part}' in '{text}' does not increase; write START:STOP:STEP, such as .4:.7:.1."
            )
        n_steps = int((last - first) / step)
        if n_steps >= MAX_SETTINGS:
            raise ConfigError(f"The range '{part}' in '{text}' has more than {MAX_SETTINGS:,} values.")
        numbers = [first + step * at for at in range(n_steps + 1)]
    return [int(number) if is_whole else float(number) for number in numbers]


def _encodings_by_camera(
    features: FeatureRows,
    encodings: Sequence[JaccardParams],
    camids: IntArray | None,
    centre: Centre,
    device: torch.device | str | None,
    memory_mb: int,
) -> Iterator[tuple[JaccardParams, csr_array]]:
    """As `_encodings`, after a search of the neighbours by camera; nothing without encodings."""
    if encodings:
        lists = _longest_lists(features, encodings, camids, centre, device, memory_mb)
        yield from _encodings(features, lists, encodings)


def _encodings(
    features: FeatureRows, lists: NeighbourLists, encodings: Sequence[JaccardParams]
) -> Iterator[tuple[JaccardParams, csr_array]]:
    """V of each encoding, one at a time; encodings that differ only in the expansion share k-reciprocal weights."""
    for base in dict.fromkeys(map(_without_expansion, encodings)):
        weights = reciprocal_weights(features, lists, base)
        for params in encodings:
            if _without_expansion(params) == base:
                yield params, expand_queries(weights, lists, params)


def _without_expansion(params: JaccardParams) -> JaccardParams:
    return replace(params, k2=1, k2_within=1)


def _longest_lists(
    features: FeatureRows,
    encodings: Sequence[JaccardParams],
    camids: IntArray | None,
    centre: Centre,
    device: torch.device | str | None,
    memory_mb: int,
) -> NeighbourLists:
    """Neighbour lists long enough for every encoding; all of them use cameras, or none does."""
    if encodings[0].by_camera:
        if camids is None:
            raise ConfigError("The Jaccard variant 'camera' needs the camera of each row; pass camids, or use 'spcl'.")
        k_within = max(max(params.k1_within + 1, params.k2_within) for params in encodings)
        k_across = max(max(params.k1 + 1, params.k2) for params in encodings)
        return NeighbourLists(
            *nearest_by_camera(features, camids, k_within, k_across, centre=centre, device=device, memory_mb=memory_mb)
        )
    k = max(params.n_neighbours for params in encodings)
    least = any(params.variant == "cvpr17" for params in encodings)
    return NeighbourLists(nearest(features, k, least=least, centre=centre, device=device, memory_mb=memory_mb))


def _result(
    setting: Setting,
    graph: csr_array,
    references: Sequence[csr_array],
    camids: IntArray | None,
    previous: IntArray | None,
    pids: IntArray | None,
    tracklets: IntArray | None,
) -> dict[str, Any]:
    started = time.perf_counter()
    labels = dbscan(graph, eps=setting.eps, min_samples=setting.min_samples)
    counts = label_statistics(labels)
    result = asdict(setting) | {name: counts[name] for name in ("n_clusters", "n_outliers", "size_max")}
    result["label_free"] = label_free_objective(labels, references, tracklets)
    result |= label_free_scores(labels, references[0], camids, previous)
    if pids is not None:
        result |= ground_truth_scores(labels, pids)
    return result | {"seconds": time.perf_counter() - started}
