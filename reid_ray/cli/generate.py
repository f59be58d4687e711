"""`reid-ray generate`: a picture of what a run's generator makes of its training images."""

from __future__ import annotations

from typing import Annotated

import typer

from reid_ray.cli.output import png_file
from reid_ray.cli.progress import make_console
from reid_ray.errors import ConfigError, RunError

app = typer.Typer()


@app.command(epilog="Example:  reid-ray generate runs/gcl --angles 45,90,180 --out turned.png")
def generate(
    run: Annotated[str, typer.Argument(help="A run directory of a method that generates images.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The PNG to write.")] = "generated.png",
    grid: Annotated[
        str | None, typer.Option(help="Which of the method's grids, such as 'rotation' or 'swap'. Default: the first.")
    ] = None,
    angles: Annotated[
        str | None,
        typer.Option(help="Degrees, as 45,90, that people are turned by, by methods that do. Default: all of them."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Which training images. Default: by the run's seed.")] = None,
) -> None:
    """Generate images with a run's newest checkpoint: people turned, or identities exchanged."""
    file = png_file(out)
    views = None if angles is None else {view: view for view in _projections(angles)}
    from torch import from_numpy
    from torchvision.io import encode_png

    from reid_ray.run import load_run

    opened = load_run(run)
    if views is not None and not opened.turns_people:
        raise ConfigError(f"--angles: {opened.config.method.name} has no body meshes to turn people by; leave it out.")
    pictures = opened.render(seed=seed, views=views)
    if not pictures:
        raise RunError(f"{run} has nothing to show: its method generates no images, or has not begun to.")
    name = grid or next(iter(pictures))
    if name not in pictures:
        raise ConfigError(f"--grid {grid}: there is no such grid; choose one of {', '.join(pictures)}.")
    file.write_bytes(encode_png(from_numpy(pictures[name]).permute(2, 0, 1).contiguous()).numpy().tobytes())
    make_console().print(f"Grid {name}: {out}", markup=False, highlight=False, soft_wrap=True)


def _projections(angles: str) -> list[str]:
    """Names of the views of a list of angles; the picture has 0° in any case."""
    from reid_ray.data.angles import ANGLES

    known = {str(angle): f"projection@{angle}" for angle in ANGLES}
    wanted = [angle.strip() for angle in angles.split(",") if angle.strip()]
    for angle in wanted:
        if angle not in known:
            raise ConfigError(f"--angles: meshes are turned by {', '.join(known)} degrees, not by '{angle}'.")
    return [known[angle] for angle in dict.fromkeys(wanted) if angle != "0"]
