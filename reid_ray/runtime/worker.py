"""The training function of each Ray Train worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reid_ray import errors
from reid_ray.config import Config
from reid_ray.data.images import ImageReader
from reid_ray.devices import choose_device, local_rank, prepare_process
from reid_ray.errors import UserError
from reid_ray.io.lease import Fence
from reid_ray.runtime.actor_pool import Pool
from reid_ray.runtime.gauges import Gauges
from reid_ray.runtime.pool_services import PoolServices
from reid_ray.runtime.preemption import PreemptionNotice
from reid_ray.training.datasets import ImageCaches
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.loop import Trainer
from reid_ray.training.rundir import RunDirectory


@dataclass(frozen=True)
class Assignment:
    """Arguments of a worker. Small: everything else is read from the run directory."""

    config: Config
    readers: Mapping[str, ImageReader]
    pool: Pool
    started: float
    lease: Fence


@dataclass(frozen=True)
class Failure:
    """A `UserError` of all workers, returned as a value: raising it would make Ray retry."""

    kind: str
    message: str

    def error(self) -> UserError:
        """The error, for the driver to raise."""
        kind: type[UserError] = getattr(errors, self.kind)
        return kind(self.message)


def train_worker(loop_config: dict[str, Assignment]) -> Failure | None:
    """Ray Train's `train_loop_per_worker`."""
    assignment = loop_config["assignment"]
    config = assignment.config
    prepare_process(config.runtime)
    device = choose_device(config.runtime, local_rank())
    datasets = RunDirectory.of(config).datasets(assignment.readers)
    context = DistributedContext.current()
    caches = ImageCaches(datasets, config)
    services = PoolServices(config, datasets, context, assignment.pool)
    try:
        Trainer(
            config,
            datasets,
            context,
            device,
            services,
            caches,
            listener=Gauges(config.name) if context.is_main_process else None,
            started=assignment.started,
            notice=PreemptionNotice(),
            fence=assignment.lease.check,
        ).run()
    except (errors.LoaderError, errors.OutOfMemoryError, errors.StorageError):
        raise  # on this worker only: the others wait in a collective, and only Ray can end them
    except UserError as error:
        return Failure(type(error).__name__, str(error))
    return None
