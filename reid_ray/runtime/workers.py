"""What runs inside each Ray Train worker."""

from __future__ import annotations

from dataclasses import dataclass

from reid_ray import errors
from reid_ray.config import Config
from reid_ray.data.images import Dataset, ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.errors import UserError
from reid_ray.runtime.gauges import Gauges
from reid_ray.runtime.pools import Pool
from reid_ray.runtime.preemption import PreemptionNotice
from reid_ray.runtime.services import PoolServices
from reid_ray.training.devices import choose_device, local_rank, prepare_process
from reid_ray.training.loop import Trainer
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import make_bank
from reid_ray.training.world import World


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs; small, for the rest is read from the run directory."""

    config: Config
    images: ImageReader
    pool: Pool
    started: float


@dataclass(frozen=True)
class Failure:
    """A `UserError` that all workers met together, as a value: raising it would make Ray try again."""

    kind: str
    message: str

    def error(self) -> UserError:
        """The error itself, to be raised by the driver."""
        kind: type[UserError] = getattr(errors, self.kind)
        return kind(self.message)


def train_worker(loop_config: dict[str, Assignment]) -> Failure | None:
    """Ray Train's `train_loop_per_worker`."""
    assignment = loop_config["assignment"]
    config = assignment.config
    prepare_process(config.runtime)
    device = choose_device(config.runtime, local_rank())
    dataset = Dataset(ImageTable.read(RunDirectory.of(config).images_file), assignment.images)
    world = World.current()
    bank = make_bank(dataset.train, dataset, config)
    services = PoolServices(config, dataset, world, assignment.pool)
    try:
        Trainer(
            config,
            dataset,
            world,
            device,
            services,
            bank,
            listener=Gauges(config.name) if world.is_first else None,
            started=assignment.started,
            notice=PreemptionNotice(),
        ).run()
    except (errors.LoaderError, errors.OutOfMemoryError, errors.StorageError):
        raise  # met by this worker alone: the others wait in a collective, and only Ray can end them
    except UserError as error:
        return Failure(type(error).__name__, str(error))
    return None
