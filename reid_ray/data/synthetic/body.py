"""The body: a pose from the phase of walking, and the solid parts of a posed and dressed person.

A part is a round cone (a tapered cylinder of elliptic section with domed ends) or a box. A part has its own materials,
so that the renderer does not depend on clothes. Person coordinates: x to the right hand's side of the picture when seen
from behind, y forward, z up, metres; the feet stand on z = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from reid_ray.data.synthetic.people import BagKind, HairStyle, Headwear, LowerKind, Person, Slot

Vector = tuple[float, float, float]
Array = npt.NDArray[np.float64]

ROUND_CONE, BOX = 0.0, 1.0
_UP: Vector = (0.0, 0.0, 1.0)
_NEVER = 1e3  # a cut or length beyond any part


class Posture(IntEnum):
    """What a person does with the hands throughout a tracklet."""

    WALKING = 0
    PHONE = 1
    POCKETS = 2
    STANDING = 3


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians, (left, right) where there are two; forward is positive."""

    hips: tuple[float, float]
    knees: tuple[float, float]
    shoulders: tuple[float, float]
    elbows: tuple[float, float]
    spread: tuple[float, float]
    lean: float


@dataclass(frozen=True)
class Parts:
    """P solids in a common frame.

    Attributes:
        frame: [P, 12], origin, then the unit axes x (sideways), y (front) and z (along the part).
        shape: [P, 8], section scale in x and y, length, radii at z = 0 and z = length, heights of the two
            domes in radii, kind (`ROUND_CONE` or `BOX`; a box has half-widths for scales and no radii).
        cover: [P, 7], material for z < cut, material beyond, cut (m), material inside the opening,
            half-angle of the opening (rad), whether prints show, whether the part belongs to the box that a
            detector draws.
    """

    frame: Array
    shape: Array
    cover: Array

    def placed(self, position: tuple[float, float], heading: float, first_material: int) -> Parts:
        """Turned by `heading` (rad, 0 = facing +y, anticlockwise), moved, with materials from `first_material` on."""
        cos, sin = math.cos(heading), math.sin(heading)
        turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
        frame = (self.frame.reshape(-1, 4, 3) @ turn).reshape(-1, 12)
        frame[:, 0] += position[0]
        frame[:, 1] += position[1]
        cover = self.cover.copy()
        cover[:, [0, 1, 3]] += first_material
        return Parts(frame, self.shape, cover)


def join(groups: list[Parts]) -> Parts:
    """All parts of several groups, in order."""
    return Parts(
        np.concatenate([group.frame for group in groups]),
        np.concatenate([group.shape for group in groups]),
        np.concatenate([group.cover for group in groups]),
    )


def make_pose(person: Person, phase: float, posture: Posture) -> Pose:
    """The pose at `phase` (rad) of the walking cycle; the left leg swings forward while cos(phase) > 0."""
    gait, outfit = person.gait, person.outfit
    long_skirt = max(outfit.coat, outfit.lower_length if outfit.lower_kind == LowerKind.SKIRT else 0.0)
    stride = gait.stride * (1.0 - 0.45 * long_skirt) * (0.15 if posture == Posture.STANDING else 1.0)
    swing = gait.arm_swing * (0.2 if posture == Posture.STANDING else 1.0)
    sine, cosine = math.sin(phase), math.cos(phase)
    shoulders, elbows = [-swing * sine, swing * sine], [gait.elbow, gait.elbow]
    spread = [gait.arm_spread, gait.arm_spread]
    bag_arm = int(person.bag_side > 0)
    if person.bag in (BagKind.HANDBAG, BagKind.SUITCASE):
        shoulders[bag_arm], elbows[bag_arm] = -0.25 if person.bag == BagKind.SUITCASE else 0.05, 0.1
    if posture == Posture.PHONE:
        shoulders[1 - bag_arm], elbows[1 - bag_arm] = 0.35, 1.7
    elif posture == Posture.POCKETS:
        shoulders[1 - bag_arm], elbows[1 - bag_arm], spread[1 - bag_arm] = -0.15, 0.75, 0.3
    bend = 1.3 * stride
    return Pose(
        hips=(0.06 + stride * sine, 0.06 - stride * sine),
        knees=(0.1 + bend * max(0.0, cosine), 0.1 + bend * max(0.0, -cosine)),
        shoulders=(shoulders[0], shoulders[1]),
        elbows=(elbows[0], elbows[1]),
        spread=(spread[0], spread[1]),
        lean=gait.lean,
    )


def assemble(person: Person, pose: Pose) -> Parts:
    """The parts of a posed and dressed person, in person coordinates; materials are numbered as `Slot`."""
    builder = _Builder()
    waist = 0.595 * person.build.stature * (0.5 + 0.5 * person.build.legs)
    top = _add_trunk(builder, person, pose, waist)
    _add_head(builder, person, top, pose.lean)
    lowest = math.inf
    hands: list[Vector] = []
    for index, side in enumerate((-1.0, 1.0)):
        lowest = min(lowest, _add_leg(builder, person, pose, index, side, waist))
        hands.append(_add_arm(builder, person, pose, index, side, top))
    _add_bag(builder, person, pose, waist, hands[int(person.bag_side > 0)], lowest)
    parts = builder.parts()
    parts.frame[:, 2] -= lowest
    return parts


def _add_trunk(builder: _Builder, person: Person, pose: Pose, waist: float) -> Vector:
    """Torso, pelvis and garments below the waist; returns the middle of the shoulder line."""
    build, outfit = person.build, person.outfit
    height = build.stature
    up = (0.0, math.sin(pose.lean), math.cos(pose.lean))
    length = 0.2 * height
    loose = outfit.upper_looseness
    waist_radius, chest_radius = _trunk_radii(person)
    depth = _trunk_depth(person)
    builder.add(
        (0.0, 0.0, waist), up, length, waist_radius, chest_radius,
        depth=depth, domes=(0.3, 0.42), slot=Slot.UPPER, opening=outfit.opening, printed=True,
    )  # fmt: skip
    # The slope from the neck to the shoulders.
    builder.add(
        (0.0, up[1] * length, waist + up[2] * length), _UP, 0.052 * height,
        0.08 * height, 0.034 * height, depth=depth, domes=(0.1, 0.1), slot=Slot.UPPER, opening=outfit.opening,
    )  # fmt: skip
    hip_radius = 0.088 * height * build.hips * (0.6 + 0.4 * build.girth) + 0.5 * loose
    builder.add(
        (0.0, 0.0, waist), (0.0, 0.0, -1.0), 0.085 * height, waist_radius, hip_radius,
        depth=depth * 1.02, domes=(0.1, 0.5), slot=Slot.UPPER, beyond=Slot.LOWER,
        cut=0.01 + outfit.hem * 0.1 * height, opening=outfit.opening, inner=Slot.INNER,
    )  # fmt: skip
    leg = waist - 0.05 * height
    if outfit.lower_kind == LowerKind.SKIRT:
        builder.add(
            (0.0, 0.0, waist - 0.03 * height), (0.0, 0.0, -1.0), outfit.lower_length * leg - 0.05, hip_radius,
            hip_radius + 0.05 + outfit.lower_looseness, depth=0.82, domes=(0.1, 0.02), slot=Slot.LOWER,
        )  # fmt: skip
    if outfit.coat:
        builder.add(
            (0.0, 0.0, waist), (0.0, 0.0, -1.0), outfit.coat * leg, waist_radius + 0.012,
            hip_radius + 0.045 + loose, depth=0.85, domes=(0.1, 0.02), slot=Slot.UPPER,
            opening=0.8 * outfit.opening, inner=Slot.LOWER,
        )  # fmt: skip
    return (0.0, up[1] * length, waist + up[2] * length)


def _trunk_radii(person: Person) -> tuple[float, float]:
    """Half-widths at waist and chest, clothes included."""
    build, loose = person.build, person.outfit.upper_looseness
    waist = 0.078 * build.stature * build.girth + loose
    chest = 0.094 * build.stature * build.shoulders * (0.75 + 0.25 * build.girth) + 0.7 * loose
    return waist, chest


def _trunk_depth(person: Person) -> float:
    return 0.62 * (0.6 + 0.4 * person.build.girth)


def _add_head(builder: _Builder, person: Person, top: Vector, lean: float) -> None:
    unit = person.build.stature * person.build.head
    builder.add(top, (0.0, 0.1, 1.0), 0.085 * unit, 0.03 * unit, 0.028 * unit, slot=Slot.SKIN)
    centre = (0.0, top[1] + 0.012 * unit + 0.05 * lean, top[2] + 0.118 * unit)
    radius = 0.044 * unit
    _add_ball(builder, centre, radius, 1.15, 1.4, Slot.SKIN, boxed=True)
    if person.beard:
        _add_ball(builder, _moved(centre, 0.0, 0.024 * unit, -0.036 * unit), 0.034 * unit, 0.9, 0.9, Slot.HAIR)
    _add_hair(builder, person, centre, unit)
    if person.headwear == Headwear.CAP:
        _add_ball(builder, _moved(centre, 0.0, -0.004 * unit, 0.026 * unit), 0.05 * unit, 1.15, 0.85, Slot.HAT)
        _add_ball(builder, _moved(centre, 0.0, 0.062 * unit, 0.03 * unit), 0.036 * unit, 1.2, 0.15, Slot.HAT)
    elif person.headwear == Headwear.BEANIE:
        _add_ball(builder, _moved(centre, 0.0, -0.008 * unit, 0.028 * unit), 0.052 * unit, 1.15, 1.05, Slot.HAT)
    elif person.headwear == Headwear.SCARF:
        _add_ball(builder, _moved(centre, 0.0, -0.016 * unit, 0.0), 0.056 * unit, 1.1, 1.35, Slot.HAT)
        shawl = _moved(centre, 0.0, -0.01, -0.1 * unit)
        builder.add(shawl, _UP, 0.06 * unit, 0.07 * unit, 0.04 * unit, depth=0.8, slot=Slot.HAT)


def _add_hair(builder: _Builder, person: Person, centre: Vector, unit: float) -> None:
    if person.hair == HairStyle.BALD:
        return
    if person.hair == HairStyle.AFRO:
        _add_ball(builder, _moved(centre, 0.0, -0.02 * unit, 0.025 * unit), 0.075 * unit, 1.0, 1.0, Slot.HAIR)
        return
    _add_ball(builder, _moved(centre, 0.0, -0.013 * unit, 0.018 * unit), 0.048 * unit, 1.12, 1.15, Slot.HAIR)
    down = (0.0, -0.12, -1.0)
    back = _moved(centre, 0.0, -0.028 * unit, 0.0)
    if person.hair == HairStyle.BOB:
        builder.add(back, down, 0.05 * unit, 0.048 * unit, 0.053 * unit, depth=0.8, domes=(0.5, 0.4), slot=Slot.HAIR)
    elif person.hair == HairStyle.LONG:
        builder.add(back, down, 0.16 * unit, 0.047 * unit, 0.056 * unit, depth=0.62, domes=(0.5, 0.5), slot=Slot.HAIR)
    elif person.hair == HairStyle.PONYTAIL:
        tail = _moved(centre, 0.0, -0.062 * unit, 0.02 * unit)
        builder.add(tail, (0.0, -0.35, -1.0), 0.13 * unit, 0.022 * unit, 0.014 * unit, slot=Slot.HAIR)
    elif person.hair == HairStyle.BUN:
        _add_ball(builder, _moved(centre, 0.0, -0.05 * unit, 0.06 * unit), 0.027 * unit, 1.0, 1.0, Slot.HAIR)


def _add_leg(builder: _Builder, person: Person, pose: Pose, index: int, side: float, waist: float) -> float:
    """Thigh, shin and foot; returns the height of the foot's lowest point."""
    build, outfit = person.build, person.outfit
    height, girth = build.stature, 0.55 + 0.45 * build.girth
    joint = (side * 0.047 * height * build.hips, 0.0, waist - 0.08 * height)
    thigh_length = shin_length = (joint[2] - 0.035 * height) / 2
    angle = pose.hips[index]
    thigh_axis = (side * 0.02, math.sin(angle), -math.cos(angle))
    bare = outfit.lower_kind == LowerKind.SKIRT
    loose = 0.0 if bare else outfit.lower_looseness
    covered = 0.0 if bare else outfit.lower_length * 2 * thigh_length
    builder.add(
        joint, thigh_axis, thigh_length, 0.05 * height * girth + loose, 0.033 * height * girth + loose,
        slot=Slot.LOWER, beyond=Slot.SKIN, cut=covered if covered < thigh_length else _NEVER,
    )  # fmt: skip
    knee = _along(joint, thigh_axis, thigh_length)
    shin_angle = angle - pose.knees[index]
    shin_axis = (0.0, math.sin(shin_angle), -math.cos(shin_angle))
    covers = covered - thigh_length
    lower_loose = loose if covers > 0.3 * shin_length else 0.0
    boot = outfit.boot > 0.0 and covers < 0.9 * shin_length
    builder.add(
        knee, shin_axis, shin_length,
        0.032 * height * girth + lower_loose, 0.021 * height * girth + lower_loose,
        domes=(1.0, 0.3), slot=Slot.LOWER if covers > 0 else Slot.SKIN,
        beyond=Slot.SHOES if boot else Slot.SKIN,
        cut=max(covers, shin_length * (1 - outfit.boot)) if boot else (covers if covers > 0 else _NEVER),
    )  # fmt: skip
    ankle = _along(knee, shin_axis, shin_length)
    pitch = 0.75 * shin_angle
    toe = (side * person.gait.toe_out, math.cos(pitch), math.sin(pitch) - 0.08)
    heel = _along(_moved(ankle, 0.0, 0.0, -0.012 * height), toe, -0.028 * height)
    foot_length, radius = 0.105 * height, 0.024 * height
    builder.add(heel, toe, foot_length, radius, 0.8 * radius, slot=Slot.SHOES, boxed=True)
    return min(heel[2] - radius, _along(heel, toe, foot_length)[2] - 0.8 * radius)


def _add_arm(builder: _Builder, person: Person, pose: Pose, index: int, side: float, top: Vector) -> Vector:
    """Upper arm, forearm and hand; returns the hand's position."""
    build, outfit = person.build, person.outfit
    height, girth = build.stature, 0.6 + 0.4 * build.girth
    chest = _trunk_radii(person)[1]
    joint = (side * (chest - 0.004 * height), top[1], top[2] - 0.008 * height)
    angle, spread = pose.shoulders[index], pose.spread[index]
    axis = (side * math.sin(spread), math.sin(angle), -math.cos(angle))
    upper_length, fore_length = 0.168 * height, 0.145 * height
    covered = outfit.sleeve * (upper_length + fore_length)
    loose = 0.6 * outfit.upper_looseness
    builder.add(
        joint, axis, upper_length, 0.029 * height * girth + loose, 0.023 * height * girth + loose,
        slot=Slot.UPPER, beyond=Slot.SKIN, cut=covered if covered < upper_length else _NEVER,
    )  # fmt: skip
    elbow = _along(joint, axis, upper_length)
    fore_angle = angle + pose.elbows[index]
    fore_axis = (-side * 0.4 * math.sin(spread), math.sin(fore_angle), -math.cos(fore_angle))
    fore_loose = loose if covered > upper_length else 0.0
    builder.add(
        elbow, fore_axis, fore_length, 0.022 * height * girth + fore_loose, 0.017 * height + fore_loose,
        domes=(1.0, 0.3), slot=Slot.UPPER if covered > upper_length else Slot.SKIN,
        beyond=Slot.SKIN, cut=covered - upper_length if covered > upper_length else _NEVER, boxed=True,
    )  # fmt: skip
    hand = _along(elbow, fore_axis, fore_length)
    builder.add(hand, fore_axis, 0.04 * height, 0.019 * height, 0.014 * height, slot=Slot.SKIN)
    return _along(hand, fore_axis, 0.05 * height)


def _add_bag(builder: _Builder, person: Person, pose: Pose, waist: float, hand: Vector, floor: float) -> None:
    size, side = person.bag_size, float(person.bag_side)
    height = person.build.stature
    radius = _trunk_radii(person)[1]
    front = _trunk_depth(person) * radius
    slope = math.tan(pose.lean)
    if person.bag == BagKind.BACKPACK:
        low = 0.03 * height
        builder.add(
            (0.0, -front - 0.055 * size + slope * low, waist + low), (0.0, slope, 1.0), 0.3 * size,
            0.15 * size, 0.125 * size, depth=0.62, domes=(0.25, 0.4), slot=Slot.BAG, printed=True,
        )  # fmt: skip
        for x in (-0.62 * radius, 0.62 * radius):
            strap = (x, 0.8 * front + 0.008, waist + 0.07 * height)
            builder.add(strap, (0.0, slope, 1.0), 0.15 * height, 0.02, 0.02, slot=Slot.BAG)
    elif person.bag == BagKind.SHOULDER:
        hip = (side * (radius + 0.07), 0.0, waist - 0.12 * height)
        _add_case(builder, hip, 0.06 * size, 0.16 * size, 0.24 * size)
        for y in (-front - 0.004, front + 0.004):
            start = (side * radius * 0.9, 0.7 * y, waist)
            end = (-side * 0.55 * radius, y, waist + 0.21 * height)
            builder.add(start, _between(start, end), math.dist(start, end), 0.016, 0.016, slot=Slot.BAG)
    elif person.bag == BagKind.HANDBAG:
        drop = 0.36 * size
        _add_case(builder, _moved(hand, side * 0.02, 0.0, -drop), 0.05 * size, 0.17 * size, 0.26 * size)
        builder.add(_moved(hand, side * 0.02, 0.0, -0.12), _UP, 0.1, 0.012, 0.012, slot=Slot.BAG)
    elif person.bag == BagKind.SUITCASE:
        foot = (hand[0] + side * 0.1, hand[1] - 0.3, floor + 0.03)
        _add_case(builder, foot, 0.18 * size, 0.12 * size, 0.52 * size)
        start = (foot[0], foot[1], floor + 0.5 * size)
        builder.add(start, _between(start, hand), math.dist(start, hand), 0.014, 0.014, slot=Slot.BAG)


def _add_ball(
    builder: _Builder,
    centre: Vector,
    radius: float,
    depth: float,
    height: float,
    slot: Slot,
    boxed: bool = False,
) -> None:
    domes = (height, height)
    builder.add(centre, _UP, 1e-3, radius, radius, depth=depth, domes=domes, slot=slot, boxed=boxed)


def _add_case(builder: _Builder, bottom: Vector, half_width: float, half_depth: float, height: float) -> None:
    builder.add(bottom, _UP, height, 0.0, 0.0, width=half_width, depth=half_depth, slot=Slot.BAG, kind=BOX)


def _moved(point: Vector, x: float, y: float, z: float) -> Vector:
    return (point[0] + x, point[1] + y, point[2] + z)


def _along(point: Vector, axis: Vector, length: float) -> Vector:
    scale = length / math.hypot(*axis)
    return (point[0] + axis[0] * scale, point[1] + axis[1] * scale, point[2] + axis[2] * scale)


def _between(start: Vector, end: Vector) -> Vector:
    return (end[0] - start[0], end[1] - start[1], end[2] - start[2])


@dataclass
class _Builder:
    """Collects parts as rows and turns them into arrays at once."""

    rows: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self, origin: Vector, axis: Vector, length: float, start_radius: float, end_radius: float, *,
        slot: Slot, beyond: Slot | None = None, inner: Slot = Slot.INNER, cut: float = _NEVER, opening: float
        = 0.0, width: float = 1.0, depth: float = 1.0, domes: tuple[float, float] = (1.0, 1.0), printed: bool
        = False, boxed: bool = False, kind: float = ROUND_CONE,
    ) -> None:  # fmt: skip
        self.rows.append(
            (*origin, *axis, width, depth, length, start_radius, end_radius, *domes, kind,
             slot, slot if beyond is None else beyond, cut, inner, opening, printed, boxed)
        )  # fmt: skip

    def parts(self) -> Parts:
        table = np.array(self.rows, dtype=np.float64)
        along = table[:, 3:6] / np.linalg.norm(table[:, 3:6], axis=1, keepdims=True)
        sideways = -along[:, :1] * along
        sideways[:, 0] += 1.0
        sideways /= np.linalg.norm(sideways, axis=1, keepdims=True)
        # Limbs hang down and the trunk stands up; y is the front for both, so that surface angles agree.
        front = np.cross(along, sideways) * np.where(along[:, 2:] < 0, -1.0, 1.0)
        return Parts(np.concatenate([table[:, :3], sideways, front, along], axis=1), table[:, 6:14], table[:, 14:])
