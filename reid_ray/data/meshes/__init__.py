"""Body meshes: files, projections at eight angles, checks. GCL uses them as structure images to rotate people.

Body models are licensed and mesh estimators are separate programs: users provide meshes, or images of them from another
renderer.
"""

from reid_ray.data.angles import ANGLES, NOVEL_ANGLES, Angles
from reid_ray.data.meshes.average_body import average_body, fitted_mesh
from reid_ray.data.meshes.check import mesh_problems
from reid_ray.data.meshes.files import FileMeshes, Mesh, MeshReader, write_mesh
from reid_ray.data.meshes.images import MeshImages, mesh_keys, rows_with_mesh, with_rendered
from reid_ray.data.meshes.projection import MeshArrays, project, turned
from reid_ray.data.meshes.table import TableMeshes, mesh_reader
from reid_ray.data.views import normalize_projection

__all__ = [
    "ANGLES",
    "NOVEL_ANGLES",
    "Angles",
    "FileMeshes",
    "Mesh",
    "MeshArrays",
    "MeshImages",
    "MeshReader",
    "TableMeshes",
    "average_body",
    "fitted_mesh",
    "mesh_keys",
    "mesh_problems",
    "mesh_reader",
    "normalize_projection",
    "project",
    "rows_with_mesh",
    "turned",
    "with_rendered",
    "write_mesh",
]
