"""Visible attributes of synthetic people, in the form of Market-1501's annotation.

Names and order of values follow Market-1501's annotation where the world has a counterpart (AM0BH-Attr reads them as
binary attributes). There is no age; `suitcase`, `coat` and some colours are additional.
"""

from __future__ import annotations

from reid_ray.data.synthetic.people import BagKind, HairStyle, Headwear, LowerKind, Material, Pattern, Person, Slot
from reid_ray.types import UNKNOWN

UPPER_COLOURS = ("black", "white", "gray", "blue", "red", "beige", "brown", "green", "pink", "yellow")
LOWER_COLOURS = ("black", "white", "gray", "blue", "red", "beige", "brown", "green", "yellow")

ATTRIBUTES = (
    "gender",
    "hair",
    "up",
    "down",
    "clothes",
    "hat",
    "backpack",
    "bag",
    "handbag",
    "suitcase",
    "coat",
    *(f"up{colour}" for colour in UPPER_COLOURS),
    *(f"down{colour}" for colour in LOWER_COLOURS),
)
"""Names of all attributes. Each has two values:

* gender: 0 male, 1 female: the proportions of shoulders and hips; hair style and clothes only correlate with it;
* hair: 0 short, 1 long (below the neck, ponytails included);
* up: 0 long sleeves, 1 short;
* down: 0 long, 1 short: whether clothes leave the knees bare;
* clothes: 0 skirt, 1 trousers or shorts;
* hat: 0 no, 1 yes, headscarves included; backpack, bag (shoulder bag), handbag, suitcase, coat (the upper garment falls
  below the hips): 0 no, 1 yes;
* up… and down…: 0 no, 1 yes: the colour that takes most of the garment. One of each group is 1.

A closed coat that is longer than the garment below hides most of it: then clothes and the colours down… are `UNKNOWN`
(−1), for about two people in a hundred.
"""

_WORDS = {
    "charcoal": "black",
    "grey": "gray",
    "navy": "blue",
    "sky": "blue",
    "jeans": "blue",
    "pale jeans": "blue",
}
"""Colour words of palette names; all other names are colour words themselves."""

_SHARED = (Pattern.STRIPES, Pattern.CHECKS, Pattern.BAND, Pattern.CAMOUFLAGE, Pattern.DIAGONAL)
"""Patterns whose second colour takes about `Material.duty` of the surface; in the others the first colour prevails."""

_KNEE = 0.6
"""Position of the knee between waist and ankle, in the units of `Outfit.coat`."""


def attributes_of(person: Person) -> dict[str, int]:
    """Values of `ATTRIBUTES`, in their order. They hold in every image of the person."""
    outfit = person.outfit
    is_skirt = outfit.lower_kind == LowerKind.SKIRT
    # Trousers are measured from the crotch, skirts and coats from the waist.
    lower_end = outfit.lower_length if is_skirt else 0.15 + 0.88 * outfit.lower_length
    hidden = outfit.opening == 0.0 and outfit.coat >= lower_end
    values = {
        "gender": int(person.feminine),
        "hair": int(person.hair in (HairStyle.LONG, HairStyle.PONYTAIL)),
        "up": int(outfit.sleeve < 0.5),
        "down": int(max(lower_end, outfit.coat) < _KNEE),
        "clothes": UNKNOWN if hidden else int(not is_skirt),
        "hat": int(person.headwear != Headwear.NONE),
        "backpack": int(person.bag == BagKind.BACKPACK),
        "bag": int(person.bag == BagKind.SHOULDER),
        "handbag": int(person.bag == BagKind.HANDBAG),
        "suitcase": int(person.bag == BagKind.SUITCASE),
        "coat": int(outfit.coat > 0.0),
    }
    upper = main_colour(person.materials[Slot.UPPER])
    lower = main_colour(person.materials[Slot.LOWER])
    values |= {f"up{word}": int(word == upper) for word in UPPER_COLOURS}
    values |= {f"down{word}": UNKNOWN if hidden else int(word == lower) for word in LOWER_COLOURS}
    return values


def main_colour(cloth: Material) -> str:
    """The word for the colour that takes more than half of a garment."""
    name = cloth.second_name if cloth.pattern in _SHARED and cloth.duty > 0.5 else cloth.name
    return _WORDS.get(name, name)
