"""An image that ends every extractor which decodes it is named, on a real Ray, instead of being tried for ever."""

import os
import signal
from dataclasses import dataclass

import pytest
import ray
import torch

from reid_ray.data.images import ImageReader
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError
from reid_ray.models import build_embedder, to_numpy
from reid_ray.runtime.actor_executor import fetch
from reid_ray.runtime.actor_pool import Extractor, Pool
from reid_ray.runtime.faults import MAX_RESTARTS
from reid_ray.runtime.light_actors import Attempts
from reid_ray.training.rundir import RunDirectory
from reid_ray.types import Weights

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class FatalImages:
    """Images of which one crashes whatever decodes it."""

    images: ImageReader
    fatal: str

    def read(self, path):
        if path == self.fatal:
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.images.read(path)


@pytest.mark.slow
def test_the_image_is_named(local_ray, tiny):
    config = tiny("evaluation.batch_size=2")
    dataset = read_dataset(config.data)
    RunDirectory.of(config).create(config, {"data": dataset})
    fatal = dataset.train.paths[21]
    attempts = ray.remote(Attempts).options(num_cpus=0).remote()
    options = {"num_cpus": 1, "max_restarts": MAX_RESTARTS, "max_task_retries": -1}
    extractor = ray.remote(Extractor).options(**options)
    readers = {"data": FatalImages(dataset.images, fatal)}
    pool = Pool(tuple(extractor.remote(config, readers, attempts) for _ in range(2)), (), 120, attempts)
    torch.manual_seed(0)
    weights = Weights("teacher", (0, 0), to_numpy(build_embedder(config.model).state_dict()))
    features = pool.features("data", len(dataset.train), 2, weights).wait()
    with pytest.raises(DataError, match=rf"The image {fatal} ends the process that decodes it \(signal SIGSEGV\)"):
        fetch(features._parts)
    assert fetch(features._parts[0]).shape[0] == 16, "tasks without the image are answered"
    pool.stop()
