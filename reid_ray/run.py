"""A run as a Python object: configuration, metrics, labels, model. For finished and running runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from reid_ray.config import Config, load_config
from reid_ray.data.arrays import AnyImage, Channels, resized_images
from reid_ray.data.decoding import Decoding
from reid_ray.data.images import Dataset
from reid_ray.data.loader import ImageCache
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.data.views import PixelBatch, make_view
from reid_ray.errors import RunError
from reid_ray.inference.exported import load_exported
from reid_ray.inference.extraction import assemble, batch_rows, embed_batch, extract, model_columns
from reid_ray.inference.folding import for_extraction
from reid_ray.inference.predictions import EmbedAndPredict
from reid_ray.inference.representations import EmbedRepresentations
from reid_ray.io.paths import Location, as_path, as_readable
from reid_ray.methods import Method, stages_of
from reid_ray.training.datasets import MAIN, ImageCaches, read_datasets
from reid_ray.training.metrics import Event, read_metrics
from reid_ray.training.rendering import render
from reid_ray.training.restored import restore_method
from reid_ray.training.rundir import RunDirectory
from reid_ray.types import FloatArray


class Rendering(NamedTuple):
    """Pictures of what a method generates.

    Attributes:
        stage: in which its modules have been trained.
        epoch: completed epochs of that stage.
        step: completed steps of the epoch after them.
        pictures: by name, uint8 [3, h, w].
    """

    stage: str
    epoch: int
    step: int
    pictures: dict[str, Tensor]


class Run:
    """One run directory. Reads on demand and never writes.

    Examples:
        >>> run = load_run("runs/demo")            # doctest: +SKIP
        >>> run.metrics("evaluate")[-1]["mAP"]     # doctest: +SKIP
        >>> run.embed(["a.jpg", "b.jpg"]).shape    # doctest: +SKIP
        (2, 2048)
    """

    def __init__(self, path: str | Location) -> None:
        self.directory = RunDirectory(as_path(path).resolve())
        if not self.directory.config_file.exists():
            raise RunError(f"{path} is not a run directory: it has no config.yaml.")
        self._model: nn.Module | None = None
        self._fast: nn.Module | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Location:
        return self.directory.path

    @cached_property
    def config(self) -> Config:
        """The resolved configuration."""
        self.directory.check_format()
        return load_config(self.directory.config_file)

    def metrics(self, event: str | None = None) -> list[Event]:
        """Events of metrics.jsonl so far: all, or those of one kind (`refresh`, `step`, `epoch`, `evaluate` …)."""
        return [line for line in read_metrics(self.directory.metrics_file) if event in (None, line["event"])]

    @property
    def finished(self) -> bool:
        return any(event["event"] == "end" for event in self.metrics())

    def labels(self, epoch: int = -1) -> pa.Table:
        """Pseudo-labels of an epoch (negative counts from the last): path, label, camid and, where known, pid."""
        files = self._label_files()
        if not -len(files) <= epoch < len(files):
            raise RunError(f"{self.path} has labels of {len(files)} epochs; epoch {epoch} is out of range.")
        return pq.read_table(as_readable(files[epoch]))

    @property
    def n_label_epochs(self) -> int:
        """Epochs of the main stage that have labels so far."""
        return len(self._label_files())

    def _label_files(self) -> list[Location]:
        found: Iterable[Location] = self.directory.labels.glob("epoch-*.parquet")
        return sorted(found, key=lambda file: (len(file.name), file.name))

    @cached_property
    def dataset(self) -> Dataset:
        """The run's images."""
        return read_dataset(self.config.data)

    @property
    def model(self) -> nn.Module:
        """The exported teacher in evaluation mode, of the last epoch unless `use_model` was called."""
        if self._model is None:
            self._model = self.load_model("last")
        return self._model

    def use_model(self, which: str) -> None:
        """Use the `last` or the `best` model from now on."""
        self._model, self._fast = self.load_model(which), None

    def load_model(self, which: str = "last") -> nn.Module:
        """The exported teacher: `last`, or `best` by the mAP of the run's own evaluations."""
        if which not in ("last", "best"):
            raise RunError(f"Unknown model '{which}'; use 'last' or 'best'.")
        file = self.directory.model_file(which)
        if not file.exists():
            raise RunError(f"{self.path} has no {which} model yet; one is written at the end of the first epoch.")
        return load_exported(self.config, file)

    def embed(self, images: AnyImage | Iterable[AnyImage], *, channels: Channels = "rgb") -> FloatArray:
        """Retrieval features of images, float32 [n, D], L2-normalised.

        Arrays and tensors are read as RGB; those of OpenCV are BGR and need `channels="bgr"`.

        Args:
            images: one image, a batch, or a list of images of any sizes and kinds: paths and URIs, encoded bytes,
                Pillow images, arrays uint8 [h, w] or [h, w, c], tensors uint8 [c, h, w] (`data.arrays.to_pixels`).
            channels: order of the channels of arrays and tensors: "rgb", or "bgr" for those of OpenCV.

        Raises:
            DataError: an image is invalid or cannot be decoded.
        """
        data = self.config.data
        resized = resized_images(images, data.height, data.width, channels=channels, decoding=Decoding.of(data))
        device = next(self.model.parameters()).device
        parts = []
        while batch := list(islice(resized, self.config.evaluation.batch_size)):
            pixels = PixelBatch(torch.stack(batch), None)
            parts.append(embed_batch(self._extractor(), pixels, device=device))
        return assemble(parts)

    def load_method(self) -> Method:
        """The method with all its modules (a generator, say, and not only what retrieves), by the newest checkpoint.

        Raises:
            RunError: there is no checkpoint yet.
        """
        return restore_method(self.config, self.directory).method

    def render(
        self, *, seed: int | None = None, views: Mapping[str, str] | None = None
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """Pictures of what the method generates after its newest checkpoint: by name, uint8 RGB [height, width, 3].

        Methods that generate no images have none, and neither have their stages before they do.

        Args:
            seed: which training images are rendered; None: those of the pictures in the run directory.
            views: views that the batch has besides those of the stage, such as `{"projection@45": "projection@45"}` for
                a rotation sheet with this angle only; None: those that the method wants (`Stage.rendered_views`).

        Raises:
            RunError: there is no checkpoint yet.
            DataError: the training images cannot be read.
        """
        rendered = self.rendering(seed=seed, views=views)
        pictures = {} if rendered is None else rendered.pictures
        return {name: pixels.permute(1, 2, 0).numpy() for name, pixels in pictures.items()}

    def rendering(self, *, seed: int | None = None, views: Mapping[str, str] | None = None) -> Rendering | None:
        """The same with the stage and epoch of the checkpoint; None where nothing is rendered."""
        if not any(stage.renders for stage in stages_of(self.config)):
            return None
        restored = restore_method(self.config, self.directory)
        caches = ImageCaches(read_datasets(self.config, {MAIN: self.dataset}), self.config)
        pictures = render(restored.method, restored.stage, caches, seed=seed, views=views)
        return Rendering(restored.stage.name, restored.epoch, restored.step, pictures)

    @property
    def turns_people(self) -> bool:
        """Whether the method generates people at other angles, by their body meshes."""
        views = (view for stage in stages_of(self.config) for view in stage.rendered_views.values())
        return any(make_view(view, self.config.data).source == "mesh" for view in views)

    def _extractor(self) -> nn.Module:
        """The model optimised for extraction, built once."""
        if self._fast is None:
            self._fast = for_extraction(self.model)
        return self._fast

    def representations(self, table: ImageTable) -> dict[str, FloatArray]:
        """Named vectors of a table's images (`inference.representations`), each float32 [N, …].

        HAVANA names the features of the extractor, and the means and deviations of the latent distributions.
        """
        model = EmbedRepresentations(self._extractor())
        values = self._embedded(model, table, self.dataset)
        ends = np.cumsum(list(model.sizes.values()))
        return dict(zip(model.sizes, np.split(values, ends[:-1], axis=1), strict=True))

    def embed_table(
        self, table: ImageTable, dataset: Dataset | None = None, *, attributes: bool = False, **extract_options: Any
    ) -> FloatArray:
        """Features of a table's images, float32 [N, D], in the table's order.

        With `attributes`, the M attributes that the model predicts are appended as columns, [N, D + M]
        (`inference.predictions`).
        """
        model = EmbedAndPredict(self._extractor()) if attributes else self._extractor()
        return self._embedded(model, table, dataset or self.dataset, **extract_options)

    def _embedded(self, model: nn.Module, table: ImageTable, dataset: Dataset, **extract_options: Any) -> FloatArray:
        """Outputs of `model.embed` for a table's images."""
        source, data = dataset.images, self.config.data
        images = ImageCache(table, source, height=data.height, width=data.width, cache_mb=0)
        batches = batch_rows(len(table), self.config.evaluation.batch_size)
        device = next(self.model.parameters()).device
        return assemble(
            extract(
                model,
                images.batch,
                batches,
                device=device,
                columns=model_columns(self.model, table),
                n_threads=data.loader_threads,
                **extract_options,
            )
        )


def load_run(path: str | Location) -> Run:
    """Open a run directory; `RunError` if it does not exist."""
    return Run(path)
