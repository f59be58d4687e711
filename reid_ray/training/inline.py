"""Training without Ray: one process, or the ranks that `torchrun` started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.devices import choose_device, local_rank, prepare_process
from reid_ray.errors import ConfigError
from reid_ray.io.memory_limit import memory_limit
from reid_ray.training.datasets import ImageCaches
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.loop import Trainer
from reid_ray.training.metrics import Event
from reid_ray.training.requirements import check_memory
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import InlineServices, run_on_main


def train_inline(
    config: Config, datasets: Mapping[str, Dataset], listener: Callable[[Event], None] | None = None
) -> None:
    """Run, or resume, in this process. Ctrl-C or SIGTERM inside an epoch writes a checkpoint first."""
    started = time.time()
    directory = RunDirectory.of(config)
    with process_group(config) as context, ExitStack() as stack:
        lease = run_on_main(context, lambda: stack.enter_context(directory.held()))
        prepare_process(config.runtime)
        device = choose_device(config.runtime, local_rank())
        run_on_main(context, lambda: check_memory(config, datasets, **_memory(device)))
        caches = ImageCaches(datasets, config)
        services = InlineServices(config, datasets, context, device, caches)
        trainer = Trainer(
            config, datasets, context, device, services, caches, listener=listener, started=started, fence=lease.check
        )
        # Only after the network is built, so that weights that do not fit leave no directory behind.
        run_on_main(context, lambda: directory.create(config, datasets))
        trainer.run()


def _memory(device: torch.device) -> dict[str, int]:
    """Bytes that this process may use, in the form that `check_memory` expects."""
    found = {"host_bytes": memory_limit() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))}
    if device.type == "cuda":
        found["device_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return found


@contextmanager
def process_group(config: Config) -> Iterator[DistributedContext]:
    """The context of the existing process group, else of `torchrun`'s (joined for the block), else of one process."""
    joined = dist.is_available() and dist.is_initialized()
    size = DistributedContext.current().size if joined else int(os.environ.get("WORLD_SIZE", "1"))
    if size != config.runtime.n_workers:
        wanted = config.runtime.n_workers
        raise ConfigError(
            f"runtime.n_workers={wanted}, but WORLD_SIZE is {size}; start runtime.backend=inline with "
            f"torchrun --nproc-per-node={wanted}, or set runtime.n_workers={size}."
        )
    if size == 1 or joined:
        yield DistributedContext.current()
        return
    backend = "nccl" if torch.cuda.is_available() and config.runtime.device != "cpu" else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(choose_device(config.runtime, local_rank()))
    dist.init_process_group(backend, timeout=timedelta(seconds=config.runtime.timeout_seconds))
    try:
        yield DistributedContext.current()
    finally:
        dist.destroy_process_group()
