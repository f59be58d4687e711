"""`reid-ray evaluate`, `extract` and `rank`: use a trained model."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from reid_ray.cli.exit_codes import EXIT_INTERRUPTED
from reid_ray.cli.output import png_file
from reid_ray.cli.progress import counting, embed_with_progress, make_console
from reid_ray.errors import ConfigError, DataError
from reid_ray.io.paths import Location, as_path

if TYPE_CHECKING:
    from reid_ray.config import EvaluationConfig
    from reid_ray.data.images import Dataset
    from reid_ray.data.table import ImageTable
    from reid_ray.run import Run

app = typer.Typer()

DRAWN_HEIGHT = 256
"""Height of crops in a ranked gallery, in pixels; the width follows from the model's input shape."""

RunArgument = Annotated[str, typer.Argument(help="A run directory.")]
DataOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[data.KEY=VALUE]...",
        help="Data other than that of the run, such as data.layout=market1501 data.root=FOLDER.",
    ),
]
ProtocolOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[data.KEY=VALUE] [evaluation.KEY=VALUE]...",
        help="Other data than the run's own, such as data.layout=market1501 data.root=FOLDER, or another protocol, "
        "such as evaluation.search=indoor.",
    ),
]
Which = Annotated[str, typer.Option("--model", help="'last', or 'best' by the mAP of the run's own evaluations.")]


Rerank = Annotated[bool, typer.Option("--rerank", help="Re-rank by k-reciprocal encoding.")]
K1 = Annotated[int | None, typer.Option(min=1, help="With --rerank: neighbours of the k-reciprocal sets. Default: 20.")]
K2 = Annotated[
    int | None,
    typer.Option(min=1, help="With --rerank: neighbours of the query expansion; 1 disables it. Default: 6."),
]
Lambda = Annotated[
    float | None,
    typer.Option("--lambda", min=0, max=1, help="With --rerank: weight of the original distance. Default: 0.3."),
]


@app.command()
def evaluate(
    run: RunArgument,
    overrides: ProtocolOverrides = None,
    model: Which = "last",
    on: Annotated[
        list[str] | None,
        typer.Option("--on", help="Another dataset, as 'data.layout=market1501 data.root=FOLDER'; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    rerank: Annotated[bool, typer.Option("--rerank", help="Add the metrics after k-reciprocal re-ranking.")] = False,
    k1: K1 = None,
    k2: K2 = None,
    lambda_value: Lambda = None,
) -> None:
    """Evaluate a run's model on query and gallery: mAP, CMC and mINP by the protocol of the run.

    With --on, on several datasets, one after another and in one table: how far the model generalises.
    """
    from reid_ray.evaluation.protocols import evaluation_note

    ranking = _reranking(rerank, k1, k2, lambda_value)
    protocol = [override for override in overrides or [] if override.startswith("evaluation.")]
    measured: dict[str, dict[str, Any]] = {}
    notes: list[str | None] = []
    for target in [None, *(on or [])] if set(overrides or []) - set(protocol) or not on else on:
        given_here = overrides if target is None else [*protocol, *shlex.split(target)]
        opened, dataset, settings = _open_to_measure(run, given_here, model)
        measured[target or dataset.table.name] = _measure(opened, dataset, settings, ranking)
        notes.append(evaluation_note(dataset.table, settings))
    if as_json:
        (only, *others) = measured.values()
        typer.echo(json.dumps(measured if others else only))
        return
    caption = (
        "re-ranked: k-reciprocal encoding, k1={k1}, k2={k2}, λ={lambda_value:g}".format(**ranking) if ranking else None
    )
    names = ", ".join(measured) if len(measured) == 1 else f"{len(measured)} datasets"
    columns = [name for name in next(iter(measured.values())) if name not in ("reranked", "attributes")]
    table = Table(
        "by" if len(measured) == 1 else "on",
        title=f"{opened.config.name} ({model} model) on {names}",
        caption=caption,
    )
    for name in columns:
        table.add_column(name, justify="right")
    for dataset_name, metrics in measured.items():
        rows = {"cosine": metrics} | ({"re-ranked": metrics["reranked"]} if rerank else {})
        for by, values in rows.items():
            title = by if len(measured) == 1 else f"{dataset_name}, {by}" if rerank else dataset_name
            table.add_row(title, *(_shown(name, values[name]) if name in values else "" for name in columns))
    make_console().print(table)
    for dataset_name, metrics in measured.items():
        if "attributes" in metrics:
            make_console().print(_attribute_table(metrics["attributes"], dataset_name))
    for note in filter(None, notes):
        make_console().print(note, highlight=False, markup=False)


def _reranking(rerank: bool, k1: int | None, k2: int | None, lambda_value: float | None) -> dict[str, Any] | None:
    """Arguments of `reranked_distances`; None without --rerank."""
    named = (("k1", k1), ("k2", k2), ("lambda_value", lambda_value))
    given = {name: value for name, value in named if value is not None}
    if given and not rerank:
        raise ConfigError("--k1, --k2 and --lambda are re-ranking settings; add --rerank.")
    return {"k1": 20, "k2": 6, "lambda_value": 0.3} | given if rerank else None


def _measure(run: Run, dataset: Dataset, settings: EvaluationConfig, rerank: dict[str, Any] | None) -> dict[str, Any]:
    """Metrics on a dataset; with re-ranking settings also those after re-ranking, under `reranked`."""
    from reid_ray.evaluation.protocols import evaluate_distances, why_not
    from reid_ray.training.datasets import evaluated_rows
    from reid_ray.training.services import evaluated_attributes, score

    reason = why_not(dataset.table, settings)
    if reason is not None:
        raise DataError(reason)
    if rerank is not None and settings.protocol != "single_query":
        raise ConfigError(f"--rerank is for evaluation.protocol=single_query, and this is {settings.protocol}.")
    console = make_console(stderr=True)
    table = evaluated_rows(dataset.table, settings)
    names = evaluated_attributes(run.model, table)
    features = embed_with_progress(run, table, dataset, console, attributes=bool(names))
    metrics = score(features, table, settings, names)
    if rerank is None:
        return metrics
    from reid_ray.devices import choose_device
    from reid_ray.labels.rerank import reranked_distances

    with console.status("Re-ranking"):
        n_query = len(dataset.query)
        device = choose_device(run.config.runtime)
        compared = features[:, : features.shape[1] - len(names)]
        blocks = reranked_distances(compared[:n_query], compared[n_query:], **rerank, device=device)
        found = evaluate_distances(blocks, dataset.table, ap=settings.ap).as_dict()
    ranking = {"k1": rerank["k1"], "k2": rerank["k2"], "lambda": rerank["lambda_value"]}
    return {**metrics, "reranked": {**ranking, **found}}


@app.command(
    epilog="Examples:  reid-ray extract runs/ice --out market.npy   |   "
    "reid-ray extract runs/ice --out features/ --extractors 4 data.layout=packed data.root=FOLDER"
)
def extract(
    run: RunArgument,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.npy|FOLDER",
            help="A file written by this process, with its rows in .parquet next to it; or a folder, written by Ray.",
        ),
    ],
    overrides: DataOverrides = None,
    split: Annotated[str, typer.Option(help="'train', 'query', 'gallery' or 'all'.")] = "all",
    model: Which = "last",
    extractors: Annotated[
        int | None,
        typer.Option(
            min=1, help="With a folder: number of extractor processes, each with a GPU if available. Default: 1."
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With a folder: Ray cluster to use, or 'auto' for the one of this machine. Default: start one."
        ),
    ] = None,
    attributes: Annotated[
        bool,
        typer.Option(
            "--attributes", help="Also write predicted attributes to FILE-attributes.parquet: path and attr_ columns."
        ),
    ] = False,
) -> None:
    """Extract L2-normalised features of images, float32 [N, D], with the table of their rows.

    Into a folder, images and features of any number are streamed and need not fit in memory, and the same command
    resumes where one before was stopped. 'reid-ray label' reads both.
    """
    place = as_path(out)
    streamed = place.is_dir() or not place.suffix
    if not streamed and place.suffix != ".npy":
        raise DataError(f"--out {out} must end in .npy, or be a folder (a name without suffix).")
    if not streamed and (extractors, address) != (None, None):
        raise ConfigError(f"--extractors and --address need a folder as --out, but {out} is a file.")
    if streamed and attributes:
        raise ConfigError(f"--attributes needs a file as --out, but {out} is a folder; set --out FILE.npy.")
    if isinstance(place, Path) and not place.absolute().parent.is_dir():
        raise DataError(f"The folder of {out} does not exist; create it, or choose another --out.")
    opened, dataset = open_run(run, overrides)
    table = dataset.table if split == "all" else dataset.table.split(split)
    if not len(table):
        raise DataError(f"{dataset.table.name} has no images in split '{split}'; use train, query, gallery or all.")
    if streamed:
        _extract_into_folder(opened, model, table, dataset, place, extractors or 1, address)
    else:
        opened.use_model(model)
        _extract_into_file(opened, table, dataset, place, attributes=attributes)


def _extract_into_file(run: Run, table: ImageTable, dataset: Dataset, out: Location, *, attributes: bool) -> None:
    import numpy as np

    from reid_ray.inference.predictions import attribute_columns, predicted_attributes
    from reid_ray.io.files import atomic_write, atomic_write_bytes, parquet_bytes

    names = predicted_attributes(run.model) if attributes else ()
    if attributes and not names:
        raise ConfigError(f"The model of {run.path} predicts no attributes; leave --attributes out.")
    features = embed_with_progress(run, table, dataset, make_console(stderr=True), attributes=attributes)
    if names:
        values = features[:, -len(names) :].astype(np.int8)
        features = np.ascontiguousarray(features[:, : -len(names)])
        file_of_values = out.with_name(f"{out.stem}-attributes.parquet")
        atomic_write_bytes(file_of_values, parquet_bytes(attribute_columns(table, names, values)))
    with atomic_write(out) as file:
        np.save(file, features)
        atomic_write_bytes(out.with_suffix(".parquet"), parquet_bytes(table.arrow))
    make_console().print(
        f"{features.shape[0]} × {features.shape[1]} features: {out}, rows: {out.with_suffix('.parquet')}",
        markup=False,
    )
    if names:
        make_console().print(f"{len(names)} predicted attributes: {file_of_values}", markup=False)


def _extract_into_folder(
    run: Run, model: str, table: ImageTable, dataset: Dataset, out: Location, n_extractors: int, address: str | None
) -> None:
    from reid_ray.runtime.streaming import stream_features

    console = make_console(stderr=True)
    try:
        with counting(console, f"Extracting {table.name}", len(table)) as bars:
            done = stream_features(
                run.config,
                run.directory.model_file(model),
                table,
                dataset.images,
                out,
                n_extractors=n_extractors,
                address=address,
                on_images=lambda n: bars.advance(bars.task_ids[0], n),
            )
    except KeyboardInterrupt:
        console.print("Interrupted. Rerun the same command to resume from the finished shards.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    before = f", {done.n_before} of them extracted earlier" if done.n_before else ""
    console = make_console()
    console.print(f"Features of {len(table)} images{before}: {out}", highlight=False, soft_wrap=True, markup=False)
    if done.n_images:
        each = ", ".join(f"{rate:.0f}" for rate in done.rates)
        console.print(
            f"{done.n_images} images in {done.seconds:.1f} s, {done.n_images / done.seconds:.0f} images/s; images/s of "
            f"each extractor while computing: {each}",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def rank(
    run: RunArgument,
    overrides: ProtocolOverrides = None,
    out: Annotated[str, typer.Option("--out", "-o", help="The PNG to write.")] = "ranked.png",
    queries: Annotated[int, typer.Option(min=1, help="Number of queries to show, from worst to best.")] = 8,
    top: Annotated[int, typer.Option(min=1, max=50, help="Matches per query.")] = 10,
    model: Which = "last",
    rerank: Rerank = False,
    k1: K1 = None,
    k2: K2 = None,
    lambda_value: Lambda = None,
) -> None:
    """Draw queries with their best matches; correct ones have a solid frame, wrong ones a dashed one.

    With --rerank, in the order of k-reciprocal re-ranking; the similarity below each image remains the cosine.

    Under a tracklet protocol (evaluation.protocol=mars), each tracklet is drawn as a film strip.
    """
    from reid_ray.labels.rerank import reranked_distances
    from reid_ray.reports.rankings import check_rankable
    from reid_ray.reports.run_report import draw_compared
    from reid_ray.training.datasets import query_and_gallery

    file = png_file(out)
    ranking = _reranking(rerank, k1, k2, lambda_value)
    opened, dataset, settings = _open_to_measure(run, overrides, model)
    check_rankable(dataset)
    console = make_console(stderr=True)
    features = embed_with_progress(opened, query_and_gallery(dataset.table, settings), dataset, console)
    config = opened.config.model_copy(update={"evaluation": settings})
    reranked = None if ranking is None else partial(reranked_distances, **ranking)
    draw_compared(dataset, features, file, config, n=queries, k=top, height=DRAWN_HEIGHT, rerank=reranked)
    make_console().print(f"Ranked gallery: {out}", markup=False)


def open_run(path: str, overrides: list[str] | None, model: str | None = None) -> tuple[Run, Dataset]:
    """The run, with the chosen model, and the dataset to use."""
    from reid_ray.config import load_config
    from reid_ray.data.readers import read_dataset
    from reid_ray.run import load_run

    allow_only(overrides, "data")
    run = load_run(path)
    if model is not None:
        run.use_model(model)
    config = load_config(run.directory.config_file, overrides or [])
    return run, read_dataset(config.data)


def _open_to_measure(path: str, overrides: list[str] | None, model: str) -> tuple[Run, Dataset, EvaluationConfig]:
    """The same, and by which protocol."""
    from reid_ray.config import load_config

    allow_only(overrides, "data", "evaluation")
    run, dataset = open_run(path, [each for each in overrides or [] if each.startswith("data.")], model)
    return run, dataset, load_config(run.directory.config_file, overrides or []).evaluation


def _attribute_table(attributes: dict[str, Any], name: str) -> Table:
    table = Table("attribute", title=f"Attributes on {name}")
    for heading in ("accuracy", "most frequent value", "images"):
        table.add_column(heading, justify="right")
    for attribute, numbers in attributes.items():
        row = (f"{numbers['accuracy']:.1%}", f"{numbers['baseline']:.1%}", str(numbers["n_known"]))
        table.add_row(attribute, *row)
    return table


def allow_only(overrides: list[str] | None, *sections: str) -> None:
    for override in overrides or []:
        if override.partition(".")[0] not in sections:
            allowed = " and ".join(f"{section}.KEY=VALUE" for section in sections)
            raise ConfigError(f"'{override}' cannot be changed after training; only {allowed} can.")


def _shown(name: str, value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) else str(value)
