"""Identities of the synthetic world: body, gait, clothes and carried objects, from (seed, pid).

Colours come from a short, realistic palette in which dark, grey, blue and white dominate, so that many people share
their colours; texture, cut, prints, hair, bags and build distinguish them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reid_ray.data.synthetic.streams import Stream, generator

Colour = tuple[float, float, float]
"""Reflectance of red, green, blue in linear light, 0 … 1."""


class Slot(IntEnum):
    """The materials of one person, in the order of `Person.materials`."""

    SKIN = 0
    UPPER = 1
    INNER = 2
    LOWER = 3
    SHOES = 4
    HAIR = 5
    HAT = 6
    BAG = 7


class Pattern(IntEnum):
    """Distribution of a cloth's two colours over its surface."""

    PLAIN = 0
    STRIPES = 1
    PINSTRIPES = 2
    CHECKS = 3
    DOTS = 4
    BAND = 5
    FADE = 6
    CAMOUFLAGE = 7
    DIAGONAL = 8


class Print(IntEnum):
    """A figure on the chest or the back."""

    NONE = 0
    DISC = 1
    RING = 2
    SQUARE = 3
    TRIANGLE = 4
    LINES = 5
    CROSS = 6
    GLYPH = 7


class HairStyle(IntEnum):
    BALD = 0
    SHORT = 1
    BOB = 2
    LONG = 3
    PONYTAIL = 4
    BUN = 5
    AFRO = 6


class Headwear(IntEnum):
    NONE = 0
    CAP = 1
    BEANIE = 2
    SCARF = 3


class LowerKind(IntEnum):
    TROUSERS = 0
    SHORTS = 1
    SKIRT = 2


class BagKind(IntEnum):
    NONE = 0
    BACKPACK = 1
    SHOULDER = 2
    HANDBAG = 3
    SUITCASE = 4


@dataclass(frozen=True)
class Material:
    """A surface: two colours, how they are mixed, and perhaps a print. Lengths in metres.

    `seed` (0 … 2²⁰) chooses the shapes of camouflage and glyphs; `figure_side` is +1 for the chest, −1 for
    the back. `name` and `second_name` are the palette names of the two colours; skin, hair and shoes have none.
    """

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: Pattern = Pattern.PLAIN
    period: float = 0.1
    duty: float = 0.5
    seed: int = 0
    figure: Print = Print.NONE
    figure_colour: Colour = (0.0, 0.0, 0.0)
    figure_size: float = 0.1
    figure_side: int = 1
    name: str = ""
    second_name: str = ""

    def row(self) -> list[float]:
        """The material's 16 numbers in the order of the fields, as the shaders' table has them; names are left out."""
        return [
            *self.colour, *self.second, float(self.pattern), self.period, self.duty, float(self.seed),
            float(self.figure), *self.figure_colour, self.figure_size, float(self.figure_side),
        ]  # fmt: skip


@dataclass(frozen=True)
class Build:
    """Body proportions: stature in metres, the others relative to an average body (1.0)."""

    stature: float
    girth: float
    shoulders: float
    hips: float
    legs: float
    head: float


@dataclass(frozen=True)
class Gait:
    """How a person walks: amplitudes and offsets in radians."""

    stride: float
    arm_swing: float
    elbow: float
    lean: float
    toe_out: float
    arm_spread: float


@dataclass(frozen=True)
class Outfit:
    """The cut of the clothes. Lengths are shares of the limb that they cover; looseness is radius in metres.

    `opening` is half the angle of an open jacket's front, radians (0 = closed). `coat` is how far the upper
    garment falls below the waist, as a share of the leg (0 = ends at the hips): a coat or a dress.
    """

    sleeve: float
    hem: float
    opening: float
    coat: float
    upper_looseness: float
    lower_kind: LowerKind
    lower_length: float
    lower_looseness: float
    boot: float


@dataclass(frozen=True)
class Person:
    """One identity: everything that stays the same in all of its images.

    `feminine` is which of two distributions the build, hair and clothes are drawn from.
    """

    feminine: bool
    build: Build
    gait: Gait
    outfit: Outfit
    hair: HairStyle
    headwear: Headwear
    beard: bool
    bag: BagKind
    bag_side: int
    bag_size: float
    materials: tuple[Material, ...]

    def material_rows(self) -> npt.NDArray[np.float64]:
        """float64 [len(Slot), 16], a row per slot."""
        return np.array([material.row() for material in self.materials], dtype=np.float64)


_UPPER_COLOURS: dict[str, tuple[tuple[int, int, int], float]] = {
    "black": ((30, 30, 34), 0.19),
    "charcoal": ((66, 68, 74), 0.11),
    "grey": ((134, 136, 138), 0.12),
    "white": ((226, 226, 222), 0.15),
    "navy": ((36, 46, 84), 0.09),
    "blue": ((58, 92, 160), 0.07),
    "sky": ((140, 176, 210), 0.04),
    "red": ((166, 40, 44), 0.06),
    "beige": ((198, 178, 146), 0.05),
    "brown": ((104, 72, 50), 0.03),
    "green": ((62, 106, 70), 0.04),
    "pink": ((216, 146, 160), 0.025),
    "yellow": ((214, 184, 74), 0.025),
}
_LOWER_COLOURS: dict[str, tuple[tuple[int, int, int], float]] = {
    "black": ((32, 32, 36), 0.27),
    "jeans": ((62, 78, 114), 0.22),
    "pale jeans": ((122, 142, 172), 0.12),
    "navy": ((38, 44, 74), 0.12),
    "grey": ((110, 112, 114), 0.10),
    "beige": ((186, 166, 132), 0.08),
    "white": ((216, 214, 208), 0.05),
    "brown": ((96, 72, 54), 0.04),
}
_SHOE_COLOURS = ((28, 28, 30), (220, 220, 218), (92, 64, 46), (120, 122, 126), (150, 44, 48), (46, 60, 110))
_SHOE_WEIGHTS = (0.42, 0.26, 0.12, 0.1, 0.05, 0.05)
_HAIR_COLOURS = ((24, 20, 20), (52, 36, 28), (98, 68, 44), (174, 140, 88), (150, 148, 146), (128, 56, 34))
_HAIR_WEIGHTS = (0.42, 0.25, 0.13, 0.09, 0.07, 0.04)
_SKIN_COLOURS = ((236, 200, 176), (222, 180, 150), (196, 148, 116), (150, 104, 76), (98, 66, 50))
_SKIN_WEIGHTS = (0.3, 0.3, 0.2, 0.12, 0.08)
_ACCENTS: dict[str, tuple[int, int, int]] = {
    "white": (226, 226, 222),
    "black": (30, 30, 34),
    "red": (176, 44, 46),
    "blue": (58, 92, 170),
    "yellow": (222, 186, 70),
    "green": (66, 120, 76),
    "grey": (134, 136, 138),
}
_PATTERN_WEIGHTS = {
    Pattern.PLAIN: 0.42,
    Pattern.STRIPES: 0.14,
    Pattern.PINSTRIPES: 0.05,
    Pattern.CHECKS: 0.1,
    Pattern.DOTS: 0.06,
    Pattern.BAND: 0.09,
    Pattern.FADE: 0.04,
    Pattern.CAMOUFLAGE: 0.05,
    Pattern.DIAGONAL: 0.05,
}


@lru_cache(maxsize=4096)
def make_person(seed: int, pid: int) -> Person:
    """The identity `pid` of the world `seed`; pids of different people give independent draws."""
    rng = generator(seed, Stream.PERSON, pid)
    feminine = bool(rng.random() < 0.5)
    build = _draw_build(rng, feminine)
    gait = Gait(
        stride=float(rng.uniform(0.3, 0.52)),
        arm_swing=float(rng.uniform(0.15, 0.55)),
        elbow=float(rng.uniform(0.1, 0.6)),
        lean=float(rng.normal(0.03, 0.04)),
        toe_out=float(rng.uniform(0.0, 0.3)),
        arm_spread=float(rng.uniform(0.04, 0.16)),
    )
    outfit = _draw_outfit(rng, feminine)
    style_weights = (0.0, 0.16, 0.2, 0.3, 0.2, 0.12, 0.02) if feminine else (0.12, 0.74, 0.05, 0.03, 0.02, 0.01, 0.03)
    bag = BagKind(_pick(rng, (0.42, 0.24, 0.16, 0.11, 0.07)))
    return Person(
        feminine=feminine,
        build=build,
        gait=gait,
        outfit=outfit,
        hair=HairStyle(_pick(rng, style_weights)),
        headwear=Headwear(_pick(rng, (0.8, 0.1, 0.06, 0.04))),
        beard=not feminine and bool(rng.random() < 0.25),
        bag=bag,
        bag_side=int(rng.choice((-1, 1))),
        bag_size=float(rng.uniform(0.8, 1.25)),
        materials=_draw_materials(rng, feminine, outfit),
    )


def linear(rgb: tuple[int, int, int] | Colour) -> Colour:
    """Display values 0 … 255 to linear reflectance 0 … 1."""
    red, green, blue = ((value / 255.0) ** 2.2 for value in rgb)
    return float(red), float(green), float(blue)


def _draw_build(rng: np.random.Generator, feminine: bool) -> Build:
    return Build(
        stature=float(np.clip(rng.normal(1.66 if feminine else 1.77, 0.07), 1.48, 1.98)),
        girth=float(np.clip(rng.normal(1.0, 0.13), 0.8, 1.4)),
        shoulders=float(rng.normal(0.93 if feminine else 1.05, 0.04)),
        hips=float(rng.normal(1.08 if feminine else 0.97, 0.05)),
        legs=float(rng.normal(1.0, 0.025)),
        head=float(rng.normal(1.0, 0.04)),
    )


def _draw_outfit(rng: np.random.Generator, feminine: bool) -> Outfit:
    long_sleeves = rng.random() < 0.55
    coat = float(rng.uniform(0.3, 0.85)) if rng.random() < (0.22 if feminine else 0.1) else 0.0
    is_open = rng.random() < (0.38 if long_sleeves else 0.05)
    lower = LowerKind(_pick(rng, (0.66, 0.14, 0.2) if feminine else (0.78, 0.22, 0.0)))
    length = {
        LowerKind.TROUSERS: rng.uniform(0.85, 1.0),
        LowerKind.SHORTS: rng.uniform(0.3, 0.6),
        LowerKind.SKIRT: rng.uniform(0.35, 0.85),
    }
    return Outfit(
        sleeve=float(rng.uniform(0.9, 1.0) if long_sleeves else rng.uniform(0.15, 0.4)),
        hem=float(rng.uniform(0.25, 0.95)),
        opening=float(rng.uniform(0.25, 0.75)) if is_open else 0.0,
        coat=coat,
        upper_looseness=float(rng.uniform(0.004, 0.03) + 0.012 * long_sleeves),
        lower_kind=lower,
        lower_length=float(length[lower]),
        lower_looseness=float(rng.uniform(0.0, 0.03)),
        boot=float(rng.uniform(0.35, 0.8)) if rng.random() < 0.12 else 0.0,
    )


def _draw_materials(rng: np.random.Generator, feminine: bool, outfit: Outfit) -> tuple[Material, ...]:
    skin = Material(_shade(rng, _SKIN_COLOURS[_pick(rng, _SKIN_WEIGHTS)], 0.05))
    upper = _draw_cloth(rng, _UPPER_COLOURS, plain_more=0.0)
    inner = _draw_cloth(rng, _UPPER_COLOURS, plain_more=0.3)
    lower = _draw_cloth(rng, _LOWER_COLOURS, plain_more=0.4 if outfit.lower_kind == LowerKind.SKIRT else 5.0)
    shoes = Material(_shade(rng, _SHOE_COLOURS[_pick(rng, _SHOE_WEIGHTS)], 0.1))
    hair = Material(_shade(rng, _HAIR_COLOURS[_pick(rng, _HAIR_WEIGHTS)], 0.1))
    hat = _draw_cloth(rng, _UPPER_COLOURS, plain_more=1.0)
    # A backpack's print is on the side away from the person's back.
    bag = replace(_draw_cloth(rng, _UPPER_COLOURS, plain_more=0.5), figure_side=-1)
    return skin, upper, inner, lower, shoes, hair, hat, bag


def _draw_cloth(
    rng: np.random.Generator, palette: dict[str, tuple[tuple[int, int, int], float]], plain_more: float
) -> Material:
    name = list(palette)[_pick(rng, [weight for _, weight in palette.values()])]
    colour = _shade(rng, palette[name][0], 0.12)
    weights = {**_PATTERN_WEIGHTS, Pattern.PLAIN: _PATTERN_WEIGHTS[Pattern.PLAIN] + plain_more}
    pattern = list(weights)[_pick(rng, list(weights.values()))]
    has_print = pattern in (Pattern.PLAIN, Pattern.FADE) and rng.random() < 0.5
    second_name, second = _contrasting(rng, colour)
    return Material(
        colour=colour,
        second=second,
        pattern=pattern,
        period=float(rng.uniform(0.07, 0.2)),
        duty=float(rng.uniform(0.3, 0.6)),
        seed=int(rng.integers(2**20)),
        figure=Print(int(rng.integers(1, len(Print)))) if has_print else Print.NONE,
        figure_colour=_contrasting(rng, colour)[1],
        figure_size=float(rng.uniform(0.06, 0.13)),
        figure_side=int(rng.choice((-1, 1), p=(0.35, 0.65))),
        name=name,
        second_name=second_name,
    )


def _contrasting(rng: np.random.Generator, colour: Colour) -> tuple[str, Colour]:
    """Name and value of an accent that is distinguishable from `colour`; after four draws, white or black."""
    for _ in range(4):
        name = list(_ACCENTS)[int(rng.integers(len(_ACCENTS)))]
        accent = _shade(rng, _ACCENTS[name], 0.1)
        if sum(abs(a - b) for a, b in zip(accent, colour, strict=True)) > 0.35:
            return name, accent
    return ("white", (0.75, 0.75, 0.73)) if sum(colour) < 0.9 else ("black", (0.02, 0.02, 0.025))


def _shade(rng: np.random.Generator, rgb: tuple[int, int, int], spread: float) -> Colour:
    """A dye lot: the palette's colour, slightly varied in lightness and hue."""
    lightness = float(np.exp(rng.normal(0.0, spread)))
    red, green, blue = (float(np.clip(v * lightness * np.exp(rng.normal(0, spread / 4)), 8, 240)) for v in rgb)
    return linear((red, green, blue))


def _pick(rng: np.random.Generator, weights: tuple[float, ...] | list[float]) -> int:
    shares = np.asarray(weights, dtype=np.float64)
    return int(np.searchsorted(np.cumsum(shares) / shares.sum(), rng.random(), side="right"))
