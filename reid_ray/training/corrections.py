"""Label corrections that a run applies, read from its directory."""

from __future__ import annotations

from collections.abc import Mapping

from reid_ray.config import Config, LabelsConfig
from reid_ray.data.table import ImageTable
from reid_ray.data.tracklets import number_tracklets
from reid_ray.labels.constraints import Constraints, read_constraints
from reid_ray.training.datasets import MAIN
from reid_ray.training.rundir import RunDirectory


def run_constraints(config: Config, tables: Mapping[str, ImageTable]) -> Constraints | None:
    """The label corrections in the run directory; None without any.

    Args:
        tables: training tables by section of the configuration.
    """
    if config.labels.constraints is None:
        return None
    return table_constraints(str(RunDirectory.of(config).constraints_file), config.labels, tables[MAIN])


def table_constraints(file: str, config: LabelsConfig, table: ImageTable) -> Constraints:
    """The constraints in a file, for the items that are clustered: the images of a table, or their tracklets.

    Raises:
        DataError: as in `read_constraints`.
    """
    items = number_tracklets(table) if config.unit == "tracklet" else None
    return read_constraints(file, table.paths, items)
