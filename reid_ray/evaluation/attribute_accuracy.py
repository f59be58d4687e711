"""Accuracy of predicted attributes, with that of always predicting the most common value as baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reid_ray.errors import DataError
from reid_ray.types import UNKNOWN, IntArray


@dataclass(frozen=True)
class AttributeAccuracy:
    """Accuracy of one attribute over the images with a known value. Rates are NaN if there are none.

    Attributes:
        name: of the attribute, without prefix.
        accuracy: share of correctly predicted images, 0 … 1.
        baseline: accuracy of always predicting the most common value.
        commonest: the most common value, the smallest of ties; `UNKNOWN` if no value is known.
        n_known: number of images with a known value.
    """

    name: str
    accuracy: float
    baseline: float
    commonest: int
    n_known: int


def attribute_accuracies(
    predicted: IntArray, attributes: IntArray, names: Sequence[str], *, reference: IntArray | None = None
) -> tuple[AttributeAccuracy, ...]:
    """The accuracy of each attribute. Images with an unknown value are left out per attribute.

    Args:
        predicted: int64 [N, M], 0 … n−1.
        attributes: int64 [N, M], ground truth, `UNKNOWN` if unknown; `ImageTable.attributes`.
        names: M names, in the order of the columns.
        reference: int64 [R, M], attributes that determine the commonest value: those of the training images give the
            accuracy of a blind guess. None: `attributes` themselves, the best that a constant can reach.

    Raises:
        DataError: incompatible shapes.
    """
    if predicted.shape != attributes.shape or predicted.ndim != 2 or attributes.shape[1] != len(names):
        raise DataError(
            f"Predicted attributes have shape {list(predicted.shape)}, known ones {list(attributes.shape)}, for "
            f"{len(names)} names; predict the attributes of the same table."
        )
    known_values = attributes if reference is None else reference
    if known_values.shape[1:] != attributes.shape[1:]:
        raise DataError(
            f"The reference has {known_values.shape[1]} attributes instead of {len(names)}; take one of the same table."
        )
    return tuple(_accuracy(name, predicted[:, m], attributes[:, m], known_values[:, m]) for m, name in enumerate(names))


def mean_accuracy(accuracies: Sequence[AttributeAccuracy]) -> tuple[float, float]:
    """Unweighted mean accuracy and mean baseline over attributes with a known value.

    NaN if there are none.
    """
    counted = [each for each in accuracies if each.n_known and each.commonest != UNKNOWN]
    if not counted:
        return float("nan"), float("nan")
    return float(np.mean([each.accuracy for each in counted])), float(np.mean([each.baseline for each in counted]))


def accuracy_metrics(accuracies: Sequence[AttributeAccuracy]) -> dict[str, Any]:
    """Numbers for the log: both means, and under `attributes` the numbers of each attribute that is known."""
    known = [each for each in accuracies if each.n_known and each.commonest != UNKNOWN]
    if not known:
        return {}
    accuracy, baseline = mean_accuracy(known)
    by_name = {
        each.name: {"accuracy": each.accuracy, "baseline": each.baseline, "n_known": each.n_known} for each in known
    }
    return {"attribute_accuracy": accuracy, "attribute_baseline": baseline, "attributes": by_name}


def _accuracy(name: str, predicted: IntArray, values: IntArray, reference: IntArray) -> AttributeAccuracy:
    known = values != UNKNOWN
    counts = np.bincount(reference[reference != UNKNOWN])
    commonest = int(counts.argmax()) if len(counts) else UNKNOWN
    n_known = int(known.sum())
    if not n_known:
        return AttributeAccuracy(name, float("nan"), float("nan"), commonest, 0)
    right = float((predicted[known] == values[known]).mean())
    blind = float((values[known] == commonest).mean()) if len(counts) else float("nan")
    return AttributeAccuracy(name, right, blind, commonest, n_known)
