"""Meshes from HMR's 85 numbers, with a body model that the user provides.

HMR (Kanazawa et al., CVPR 2018) estimates (s, tx, ty), a weak-perspective camera in its 224×224 crop; 24 joint
rotations as axis times angle; and 10 shape coefficients. The body model is SMPL (Loper et al., SIGGRAPH Asia 2015). Its
file is licensed and never part of this package: a `.npz` with the arrays that SMPL's own file has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reid_ray.data.meshes.arrays import Arrays, read_arrays
from reid_ray.errors import DataError
from reid_ray.io.paths import as_path

Float64Array = npt.NDArray[np.float64]

CROP = 224
"""Side of HMR's input, pixels."""

FOCAL = 500.0
"""Focal length that HMR renders with, pixels of the crop."""

JOINTS = 24

SMPL_ARRAYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


class Crop(NamedTuple):
    """How an image was cropped for HMR.

    Attributes:
        scale: the image was resized by this factor.
        start: (x, y) of the crop's corner in the resized image; negative where the crop extends beyond it.
    """

    scale: float
    start: tuple[float, float]


@dataclass(frozen=True, eq=False)
class BodyModel:
    """SMPL's arrays; V vertices, J joints, S shape coefficients.

    Attributes:
        template: [V, 3], the mean body in rest pose, metres.
        shape_directions: [V, 3, S].
        pose_directions: [V, 3, 9·(J−1)].
        joint_regressor: [J, V].
        skinning: [V, J]; rows sum to 1.
        parents: int64 [J]; the first joint is the root, and its entry is not used.
        faces: int32 [F, 3].
    """

    template: Float64Array
    shape_directions: Float64Array
    pose_directions: Float64Array
    joint_regressor: Float64Array
    skinning: Float64Array
    parents: npt.NDArray[np.int64]
    faces: npt.NDArray[np.int32]

    def vertices(self, pose: Float64Array, shape: Float64Array) -> Float64Array:
        """[V, 3], metres: shape and pose blend shapes, then linear blend skinning (SMPL, Eq. 2-10).

        Args:
            pose: [J, 3], each joint's rotation relative to its parent, axis times angle (rad).
            shape: [≤ S] coefficients.
        """
        rest = self.template + self.shape_directions[:, :, : len(shape)] @ shape
        joints = self.joint_regressor @ rest
        rotations = np.stack([rotation(axis_angle) for axis_angle in pose])
        posed = rest + self.pose_directions @ (rotations[1:] - np.eye(3)).ravel()
        transforms = self._transforms(rotations, joints)
        blended = np.tensordot(self.skinning, transforms, axes=1)
        turned: Float64Array = np.einsum("vij,vj->vi", blended[:, :, :3], posed) + blended[:, :, 3]
        return turned

    def _transforms(self, rotations: Float64Array, joints: Float64Array) -> Float64Array:
        """[J, 3, 4]: each joint's transform from the rest pose to the pose."""
        turns, places = np.empty_like(rotations), np.empty_like(joints)
        turns[0], places[0] = rotations[0], joints[0]
        for joint in range(1, len(joints)):
            parent = self.parents[joint]
            turns[joint] = turns[parent] @ rotations[joint]
            places[joint] = turns[parent] @ (joints[joint] - joints[parent]) + places[parent]
        offsets = places - np.einsum("jkl,jl->jk", turns, joints)
        return np.concatenate([turns, offsets[:, :, None]], axis=2)


@lru_cache(maxsize=2)
def load_body_model(path: str) -> BodyModel:
    """The SMPL model in a `.npz`; read once per process.

    Raises:
        DataError: no such file, not a `.npz` of plain arrays, a missing array, not 24 joints.
    """
    arrays = read_arrays(as_path(path), "body model")
    missing = [name for name in SMPL_ARRAYS if name not in arrays]
    if missing:
        raise DataError(
            f"The body model {path} has no {', '.join(missing)}; it should be SMPL's file, saved as .npz with "
            f"{', '.join(SMPL_ARRAYS)}."
        )
    if arrays["J_regressor"].shape != (JOINTS, len(arrays["v_template"])):
        raise DataError(
            f"The body model {path} has a J_regressor of shape {list(arrays['J_regressor'].shape)}; HMR's poses need "
            f"{JOINTS} joints, each from all {len(arrays['v_template'])} vertices."
        )
    return body_model(arrays)


def body_model(arrays: Arrays) -> BodyModel:
    """The model from arrays with SMPL's names."""
    template, shape, pose, regressor, weights, tree, faces = (arrays[name] for name in SMPL_ARRAYS)
    return BodyModel(
        template=template.astype(np.float64),
        shape_directions=shape.astype(np.float64),
        pose_directions=pose.astype(np.float64),
        joint_regressor=regressor.astype(np.float64),
        skinning=weights.astype(np.float64),
        parents=tree[0].astype(np.int64),
        faces=np.ascontiguousarray(faces, dtype=np.int32),
    )


def rotation(axis_angle: Float64Array) -> Float64Array:
    """[3, 3] of an axis [3] times an angle (rad), for columns (Rodrigues' formula)."""
    angle = float(np.linalg.norm(axis_angle))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turn: Float64Array = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
    return turn


def hmr_mesh(
    model: BodyModel, theta: Float64Array, image_size: npt.NDArray[np.int32], crop: Crop | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Vertices float32 [V, 3] in camera coordinates and the camera float32 [3] of an image, as HMR renders it.

    Args:
        theta: [85], camera (s, tx, ty), pose [24·3], shape [10].
        image_size: (H, W) of the original image, pixels.
        crop: how the image was cropped; None: resized so that its longer side is 224, and centred.
    """
    height, width = map(int, image_size)
    if crop is None:
        scale = CROP / max(height, width)
        crop = Crop(scale, ((width * scale - CROP) / 2, (height * scale - CROP) / 2))
    size, tx, ty = theta[:3]
    with np.errstate(divide="ignore"):  # s = 0 puts the body at infinity, which the mesh's check rejects
        depth = FOCAL / (0.5 * CROP * size)
    vertices = model.vertices(theta[3:75].reshape(JOINTS, 3), theta[75:]) + np.array([tx, ty, depth])
    cx, cy = ((CROP / 2 + start) / crop.scale for start in crop.start)
    camera = np.array([FOCAL / crop.scale, cx, cy])
    return vertices.astype(np.float32), camera.astype(np.float32)
