"""`reid-ray export`: from a run to a folder that others load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from reid_ray.cli.progress import make_console

if TYPE_CHECKING:
    from reid_ray.export.writing import Format

app = typer.Typer()


@app.command(
    epilog="Examples:  reid-ray export runs/ice --out ice   |   "
    "reid-ray export runs/ice --format folder --format onnx --preprocess --int8 --out ice"
)
def export(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write; new or empty.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="'folder' (weights and config.json, for reid_ray.load_encoder and hub clients), 'onnx', "
            "'torchscript', 'torch-export', or 'torchreid' (an OSNet for torchreid, BoxMOT and reid); may be "
            "repeated. Default: folder.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="'last', or 'best' by the mAP of the run's own evaluations.")
    ] = "last",
    preprocess: Annotated[
        bool,
        typer.Option(
            "--preprocess",
            help="ONNX, TorchScript and torch.export: resize and normalise in the program, which then reads uint8 "
            "[N, h, w, 3] in BGR, as OpenCV has crops.",
        ),
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="With onnx: also quantise to 8 bits, for CPUs.")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also write all modules of the newest checkpoint, such as generators.")
    ] = False,
) -> None:
    """Write a run's model to a folder that needs no run: weights, ONNX or TorchScript, and a model card.

    Each file is read back and compared with the run on 64 images. Without --whole the folder holds only the network
    that retrieves.
    """
    from reid_ray.export import export_run
    from reid_ray.run import load_run

    chosen = cast("list[Format]", formats or ["folder"])
    console = make_console(stderr=True)
    with console.status("Exporting"):
        checks = export_run(
            load_run(run), out, formats=chosen, model=model, preprocess=preprocess, int8=int8, whole=whole
        )
    printed = make_console()
    for check in checks:
        size = (Path(out) / check.file).stat().st_size / 1e6
        printed.print(
            f"{check.file}: {size:.1f} MB, smallest cosine with the run {check.cosine:.6f} ({check.images})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    printed.print(f"Exported model: {out}", highlight=False, markup=False, soft_wrap=True)
