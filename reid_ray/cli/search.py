"""`reid-ray index`, `search` and `threshold`: find a person among crops."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from reid_ray.cli.exit_codes import EXIT_INTERRUPTED
from reid_ray.cli.progress import counting, embed_with_progress, make_console
from reid_ray.cli.retrieval import DataOverrides, RunArgument, Which, allow_only, open_run
from reid_ray.config import Config, load_config, with_absolute_paths
from reid_ray.errors import ConfigError, DataError
from reid_ray.io.paths import as_path

# Indexes import PyTorch, so import them where they are used: --help should not wait for it.
if TYPE_CHECKING:
    from reid_ray.reports.matches import Match
    from reid_ray.run import Run
    from reid_ray.search import Index, Matches

app = typer.Typer()

OTHER_DATA = (
    "data.camera_level=null",
    "data.camera_regex=null",
    "data.pid_regex=null",
    "data.train_regex=null",
    "data.query_regex=null",
    "data.gallery_regex=null",
    "data.attributes=null",
    "data.holdout=0",
    "data.tracklets=false",
)
"""Settings of a run's data that mean nothing for other crops."""

IndexArgument = Annotated[str, typer.Argument(help="Folder of an index, from 'reid-ray index'.")]
RunOption = Annotated[
    str | None, typer.Option("--run", help="The run of the index, if its directory has moved.", show_default=False)
]


@app.command(
    epilog="Examples:  reid-ray index runs/ice crops/ --out index/ data.camera_regex='(cam\\d+)_'   |   "
    "reid-ray index runs/ice more/ --out index/ --append"
)
def index(
    run: RunArgument,
    crops: Annotated[
        str, typer.Argument(help="Folder of crops, CSV or Parquet list, packed dataset, or the word 'synthetic'.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the index.")],
    overrides: DataOverrides = None,
    append: Annotated[bool, typer.Option("--append", help="Add the images that the index does not have yet.")] = False,
    split: Annotated[str, typer.Option(help="'train', 'query', 'gallery' or 'all'.")] = "all",
    model: Which = "last",
) -> None:
    """Embed crops and write an index that 'reid-ray search' reads. Rerun the same command to resume.

    Features are stored once and never computed again: --append embeds new images only. The index refers to the images
    and does not copy them.
    """
    from reid_ray.data.images import Dataset
    from reid_ray.data.readers import read_dataset
    from reid_ray.run import load_run
    from reid_ray.search import build_index

    allow_only(overrides, "data")
    opened = load_run(run)
    data = _config_of(opened, crops, overrides or []).data
    dataset = read_dataset(data)
    if split != "all":
        chosen = dataset.table.split(split)
        if not len(chosen):
            raise DataError(f"{dataset.table.name} has no images in split '{split}'; use train, query, gallery or all.")
        dataset = Dataset(chosen, dataset.images)
    console = make_console(stderr=True)
    try:
        with counting(console, f"Indexing {dataset.table.name}", len(dataset.table)) as bars:
            done = build_index(
                opened,
                dataset,
                data,
                out,
                model=model,
                append=append,
                on_begin=lambda n_done, n: bars.update(bars.task_ids[0], completed=n_done, total=n),
                on_images=lambda n: bars.advance(bars.task_ids[0], n),
            )
    except KeyboardInterrupt:
        console.print("Interrupted. Rerun the same command to resume from the finished shards.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    known = f", {done.n_known:,} of the given ones were in it already" if done.n_known else ""
    make_console().print(
        f"{done.n_images:,} images added{known}; {out} has {done.n_total:,}.", highlight=False, soft_wrap=True
    )


@app.command(
    epilog="Examples:  reid-ray search index/ query.jpg --top 20 --html matches.html   |   "
    "reid-ray search index/ a.jpg b.jpg --camera 3 --camera 4 --since 2026-05-01T18:00"
)
def search(
    index: IndexArgument,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="Crops of the people to find.")],
    top: Annotated[int, typer.Option(min=1, help="Matches per query.")] = 20,
    camera: Annotated[
        list[int] | None, typer.Option(help="Only images of this camera (column camid); may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only images taken at this time or later (column time), ISO 8601.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only images taken before this time.")] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Compare with the images that faiss proposes (extra 'ann').")
    ] = False,
    html: Annotated[
        str | None, typer.Option(help="Also write a page with the images: one file, no scripts.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the matches as JSON.")] = False,
    run: RunOption = None,
) -> None:
    """Find the crops most similar to a query, best first. The search is exact unless --approximate.

    With a threshold ('reid-ray threshold'), matches that reach it are marked.
    """
    from reid_ray.search import Index

    page = None if html is None else as_path(html)
    if page is not None and page.suffix not in (".html", ".htm"):
        raise DataError(f"--html {html} must end in .html.")
    if isinstance(page, Path) and page.is_dir():
        raise DataError(f"--html {html} is a folder; choose a file.")
    if isinstance(page, Path) and not page.absolute().parent.is_dir():
        raise DataError(f"The folder of {html} does not exist; create it, or choose another --html.")
    opened = Index(index, run=run)
    first, last = _time("--since", since), _time("--until", until)
    found = opened.search(queries, top=top, cameras=camera or None, since=first, until=last, approximate=approximate)
    if as_json:
        typer.echo(json.dumps([_described(opened, found, i, query) for i, query in enumerate(queries)]))
    else:
        for i, query in enumerate(queries):
            make_console().print(_table(opened, found, i, query))
        make_console().print(_note(opened), highlight=False, soft_wrap=True)
    if page is not None:
        from reid_ray.data.images import FileImages
        from reid_ray.reports.matches import QueryMatches, write_matches

        shown = [
            QueryMatches(query, FileImages().read(query), _page_matches(opened, found, i))
            for i, query in enumerate(queries)
        ]
        write_matches(page, f"Search in {as_path(index).name}", f"{len(opened):,} images. {_note(opened)}", shown)
        make_console(stderr=as_json).print(f"Page: {html}", highlight=False, soft_wrap=True)


@app.command()
def threshold(
    index: IndexArgument,
    overrides: DataOverrides = None,
    false_accepts: Annotated[
        float, typer.Option("--far", help="Share of pairs of different people that may pass for the same person.")
    ] = 0.001,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="Without labels: take the clusters of the indexed images for people.")
    ] = False,
    run: RunOption = None,
) -> None:
    """Choose the similarity from which two crops count as the same person, and write it into the index.

    The default is by query and gallery images with identities: those of the run, or of other data, as in
    'reid-ray threshold index/ data.layout=market1501 data.root=FOLDER'. The people must not be those of the training
    split.
    """
    from reid_ray.search import Index, threshold_of_clusters, threshold_of_labels

    console = make_console(stderr=True)
    opened = Index(index, run=run)
    if clusters:
        if overrides:
            raise ConfigError("--clusters reads the images of the index; leave the data settings out.")
        with console.status("Clustering"):
            chosen = threshold_of_clusters(opened, false_accept=false_accepts)
    else:
        _, dataset = open_run(str(opened.run.path), overrides)
        chosen = threshold_of_labels(
            opened,
            dataset,
            lambda table, images: embed_with_progress(opened.run, table, images, console),
            false_accept=false_accepts,
        )
    make_console().print(chosen.describe(), highlight=False, soft_wrap=True)


def _config_of(run: Run, crops: str, overrides: list[str]) -> Config:
    """The run's configuration with the data of an index."""
    from reid_ray.data.readers import detect_layout

    file = run.directory.config_file
    if crops == "synthetic" and not Path(crops).exists():
        where = ["data.layout=synthetic", "data.root=null", *OTHER_DATA]
    elif run.config.data.root is not None and as_path(run.config.data.root).absolute() == as_path(crops).absolute():
        where = []  # its own images, read by its own rules
    else:
        given = [each for each in overrides if each.startswith("data.layout=")]
        layout = [] if given else [f"data.layout={detect_layout(as_path(crops))}"]
        where = [*OTHER_DATA, f"data.root={json.dumps(crops)}", *layout]
    return with_absolute_paths(load_config(file, [*where, *overrides]))


def _time(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text} is not a time; write it as 2026-05-01 or 2026-05-01T18:00:00.") from None
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _described(index: Index, found: Matches, query: int, name: str) -> dict[str, Any]:
    """A query and its matches as plain values."""
    matches = []
    for j, row in enumerate(found.rows[query]):
        if row < 0:
            break
        columns = {key: values[0] for key, values in index.table.slice(row, 1).to_pydict().items()}
        same = None if found.accepted is None else bool(found.accepted[query, j])
        matches.append(
            {"row": int(row), "similarity": float(found.similarities[query, j]), "accepted": same, **columns}
        )
        for key, value in columns.items():
            if isinstance(value, datetime):
                matches[-1][key] = value.isoformat()
    return {"query": name, "matches": matches}


def _table(index: Index, found: Matches, query: int, name: str) -> Table:
    described = _described(index, found, query, name)["matches"]
    has_time = any(match.get("time") for match in described)
    table = Table(title=f"{name} in {index.path}", title_justify="left")
    headings = ["rank", "similarity", *(["≥ threshold"] if index.threshold else []), "camera"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for heading in [*(["time"] if has_time else []), "image"]:
        table.add_column(heading, overflow="fold")
    for rank, match in enumerate(described, start=1):
        same = [{True: "yes", False: "no", None: ""}[match["accepted"]]] if index.threshold else []
        camera = "" if match["camid"] < 0 else str(match["camid"])
        time = [str(match.get("time") or "")] if has_time else []
        table.add_row(str(rank), f"{match['similarity']:.3f}", *same, camera, *time, match["path"])
    return table


def _page_matches(index: Index, found: Matches, query: int) -> list[Match]:
    from reid_ray.reports.matches import Match

    matches = []
    for match in _described(index, found, query, "")["matches"]:
        try:
            image = index.image(match["row"])
        except DataError:
            image = None
        remarks = [f"camera {match['camid']}"] if match["camid"] >= 0 else []
        remarks += [str(match["time"])] if match.get("time") else []
        matches.append(Match(match["path"], image, match["similarity"], tuple(remarks), match["accepted"]))
    return matches


def _note(index: Index) -> str:
    if index.threshold is not None:
        return index.threshold.describe()
    return "No threshold for the same person has been chosen; 'reid-ray threshold' chooses one."
