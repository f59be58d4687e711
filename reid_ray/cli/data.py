"""`reid-ray data`: check a dataset, pack it for fast reading, or draw the synthetic one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from reid_ray.cli.output import png_file
from reid_ray.cli.progress import make_console
from reid_ray.config import DataConfig, SyntheticConfig
from reid_ray.config.data import Layout
from reid_ray.errors import ConfigError, DataError
from reid_ray.io.paths import as_path
from reid_ray.types import UNKNOWN

# Readers import PyTorch, so import them where they are used: --help should not wait for it.
if TYPE_CHECKING:
    from reid_ray.data.check import CheckReport
    from reid_ray.data.pack import Progress as Report

SYNTHETIC: Literal["synthetic"] = "synthetic"

app = typer.Typer(help="Check a dataset, pack it, or draw the synthetic one.", no_args_is_help=True)

Source = Annotated[
    str,
    typer.Argument(help="Folder of the dataset, a CSV or Parquet file, or the word 'synthetic'.", show_default=False),
]
LayoutOption = Annotated[
    Layout | None,
    typer.Option(help="Layout of the dataset. Default: detected from the folder.", show_default=False),
]
DetectedOption = Annotated[bool, typer.Option("--detected/--labeled", help="CUHK03-np: detected or labelled boxes.")]
LevelOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Layouts folder, imagefolder: folder level that names the camera, 0 = first.", show_default=False
    ),
]
CameraRegexOption = Annotated[
    str | None,
    typer.Option(
        help="Layouts folder, imagefolder: regular expression; its first group is the camera.", show_default=False
    ),
]
PidRegexOption = Annotated[
    str | None,
    typer.Option(help="Layout folder: regular expression; its first group is the identity.", show_default=False),
]
TrainRegexOption = Annotated[
    str | None,
    typer.Option(
        help="Layout folder: regular expression that selects the training images, with groups pid and camera.",
        show_default=False,
    ),
]
QueryRegexOption = Annotated[str | None, typer.Option(help="The same for query images.", show_default=False)]
GalleryRegexOption = Annotated[str | None, typer.Option(help="The same for gallery images.", show_default=False)]
MegapixelsOption = Annotated[float, typer.Option(help="Refuse images with more megapixels than this.")]
StretchOption = Annotated[
    bool,
    typer.Option("--stretch-16-bit", help="Stretch the contrast of 16-bit greyscale images to their own range."),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads that read and decode images.")]


@app.command("check")
def check_command(
    source: Source,
    layout: LayoutOption = None,
    detected: DetectedOption = True,
    camera_level: LevelOption = None,
    camera_regex: CameraRegexOption = None,
    pid_regex: PidRegexOption = None,
    train_regex: TrainRegexOption = None,
    query_regex: QueryRegexOption = None,
    gallery_regex: GalleryRegexOption = None,
    max_megapixels: MegapixelsOption = 100,
    stretch_16_bit: StretchOption = False,
    threads: ThreadsOption = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, for scripts.")] = False,
) -> None:
    """Decode every image and list all problems.

    Exit code: 0 where all is well, 1 where there are problems, 2 where there is nothing to check.
    """
    from reid_ray.data.check import check

    config = _config(
        source,
        layout,
        detected=detected,
        camera_level=camera_level,
        camera_regex=camera_regex,
        pid_regex=pid_regex,
        train_regex=train_regex,
        query_regex=query_regex,
        gallery_regex=gallery_regex,
        max_megapixels=max_megapixels,
        stretch_16_bit=stretch_16_bit,
    )
    with _progress("Checking") as progress:
        report = check(config, threads=threads, progress=progress)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_report(report)
    if not report.clean:
        raise typer.Exit(1)


@app.command("pack")
def pack_command(
    source: Source,
    out: Annotated[str, typer.Argument(help="Folder to create; must not exist or be empty.", show_default=False)],
    layout: LayoutOption = None,
    detected: DetectedOption = True,
    camera_level: LevelOption = None,
    camera_regex: CameraRegexOption = None,
    pid_regex: PidRegexOption = None,
    train_regex: TrainRegexOption = None,
    query_regex: QueryRegexOption = None,
    gallery_regex: GalleryRegexOption = None,
    max_megapixels: MegapixelsOption = 100,
    stretch_16_bit: StretchOption = False,
    shard_mb: Annotated[int, typer.Option(min=1, help="Close a shard once it holds this many MB of images.")] = 256,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH",
            help="Resize images to this first, and store them as PNG.",
            show_default=False,
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out and list unreadable images instead of stopping."),
    ] = False,
    threads: ThreadsOption = 4,
    packers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pack on Ray with this many concurrent tasks, on all nodes of a cluster; rerun the same command to "
            "resume. Default: in this process.",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With --packers: Ray cluster to use, or 'auto' for the one of this machine. Default: start one."
        ),
    ] = None,
) -> None:
    """Write a dataset as a few large Arrow files, for storage that is slow with many small files.

    Train on it with data.layout=packed and data.root=OUT.
    """
    from reid_ray.data.images import printable
    from reid_ray.data.pack import pack, without_bad_images
    from reid_ray.data.readers import read_dataset

    if size is not None and min(size) < 1:
        raise ConfigError(f"--size {size[0]} {size[1]}: height and width must be at least one pixel.")
    config = _config(
        source,
        layout,
        detected=detected,
        camera_level=camera_level,
        camera_regex=camera_regex,
        pid_regex=pid_regex,
        train_regex=train_regex,
        query_regex=query_regex,
        gallery_regex=gallery_regex,
        max_megapixels=max_megapixels,
        stretch_16_bit=stretch_16_bit,
    )
    dataset = read_dataset(config)
    if address is not None and packers is None:
        raise ConfigError("--address needs packing on Ray; add --packers N.")
    target = as_path(out)
    if skip_bad:
        with _progress("Checking") as progress:
            dataset, bad = without_bad_images(dataset, threads=threads, progress=progress)
        for path, what in bad.items():
            typer.echo(f"left out: {printable(path)} {printable(what)}")
    with _progress("Packing") as progress:
        if packers is None:
            pack(dataset, target, shard_mb=shard_mb, size=size, threads=threads, progress=progress)
        else:
            from reid_ray.runtime.packing import pack_on_ray

            options: dict[str, Any] = {"shard_mb": shard_mb, "size": size, "n_packers": packers, "address": address}
            pack_on_ray(dataset, target, progress=progress, **options)
    typer.echo(f"{len(dataset.table)} images packed into {out}; use it with data.layout=packed data.root={out}")


@app.command("sheet")
def sheet_command(
    out: Annotated[Path, typer.Argument(help="PNG file to write.", show_default=False)],
    people: Annotated[int, typer.Option(min=1, help="Number of people, one row each.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Images per person.")] = 16,
    cameras: Annotated[int, typer.Option(min=1, help="Number of cameras.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
) -> None:
    """Draw a contact sheet of the synthetic dataset: one row per person, across cameras."""
    import torch
    from torchvision.io import encode_png

    from reid_ray.data.synthetic import contact_sheet, make_dataset

    png_file(out)
    config = SyntheticConfig(n_train_ids=people, n_test_ids=0, n_cameras=cameras, images_per_id=images, seed=seed)
    dataset = make_dataset(config)
    sheet = contact_sheet(dataset, range(len(dataset.table)), n_columns=images)
    data = encode_png(torch.from_numpy(sheet).permute(2, 0, 1)).numpy().tobytes()
    try:
        out.write_bytes(data)
    except OSError as error:
        raise DataError(f"Cannot write {out}: {error.strerror or error}.") from error
    typer.echo(f"{people} people × {images} images written to {out}")


def _config(source: str, layout: Layout | None, **settings: Any) -> DataConfig:
    """The data configuration of a command; `settings` are keys of the section `data`."""
    from reid_ray.data.readers import detect_layout

    if layout is None and settings["train_regex"] is not None:
        layout = "folder"
    if layout is None:
        synthetic = source == SYNTHETIC and not Path(source).exists()
        layout = SYNTHETIC if synthetic else detect_layout(as_path(source))
    rules = ["pid_regex"] if layout == "imagefolder" else ["camera_level", "camera_regex", "pid_regex"]
    if layout != "folder" and any(settings[rule] is not None for rule in rules):
        options = ", ".join(f"--{rule.replace('_', '-')}" for rule in rules)
        raise ConfigError(
            f"{options} need the layout folder, but {source} is read as {layout}; remove them, or add --layout folder."
        )
    root = None if layout == SYNTHETIC else source
    try:
        return DataConfig.model_validate({"layout": layout, "root": root, **settings})
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"].removeprefix("Value error, ") + ".") from error


@contextmanager
def _progress(what: str) -> Iterator[Report]:
    """A progress bar on stderr, to keep stdout clean; in a file only its last state is written."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=make_console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_report(report: CheckReport) -> None:
    from reid_ray.data.images import printable

    console = make_console()
    console.print(_counts_table(report))
    if any(split.n_cameras for split in report.splits):
        console.print(_camera_table(report))
    if report.sizes is not None:
        console.print(_size_table(report))
    for note in report.notes:
        typer.echo(f"note: {printable(note)}")
    for problem in report.problems:  # one unwrapped line each, for grep
        typer.echo(f"{problem.kind}: {printable(problem.detail)}")
    found = ", ".join(f"{n} {kind}" for kind, n in report.counts().items())
    typer.echo(f"{len(report.problems)} problems ({found})" if report.problems else "No problems found.")


def _counts_table(report: CheckReport) -> Table:
    table = Table("split", title=f"{report.name} (layout {report.layout})")
    for heading in ("images", "pids", "cameras"):
        table.add_column(heading, justify="right")
    for split in report.splits:
        table.add_row(split.split, f"{split.images:,}", f"{split.pids:,}", str(split.n_cameras))
    return table


def _camera_table(report: CheckReport) -> Table:
    table = Table("camera", title="Images per camera")
    for split in report.splits:
        table.add_column(split.split, justify="right")
    for camid in sorted({camid for split in report.splits for camid in split.cameras}):
        name = "unknown" if camid == UNKNOWN else str(camid)
        table.add_row(name, *(f"{split.cameras.get(camid, 0):,}" for split in report.splits))
    return table


def _size_table(report: CheckReport) -> Table:
    sizes = report.sizes
    assert sizes is not None
    title = f"Sizes: {sizes.distinct:,} distinct, {sizes.total_bytes / 2**20:,.1f} MB in total"
    table = Table("", title=title)
    for heading in ("smallest", "median", "largest"):
        table.add_column(heading, justify="right")
    for name, triple in (("height", sizes.height), ("width", sizes.width), ("file bytes", sizes.file_bytes)):
        table.add_row(name, *(f"{value:,}" for value in triple))
    return table
