"""GCL: a generator that rotates people by their body meshes, and contrastive learning from its images."""

from reid_ray.methods.gcl.method import GCL

__all__ = ["GCL"]
