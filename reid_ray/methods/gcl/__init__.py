"""GCL: a generator that turns people by their body meshes, and a memory that learns from what it draws."""

from reid_ray.methods.gcl.method import GCL

__all__ = ["GCL"]
