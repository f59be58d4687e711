"""IS-GAN (Eom & Ham, NeurIPS 2019): the method and its image grids."""

from reid_ray.methods.is_gan.method import ISGAN

__all__ = ["ISGAN"]
