"""IS-GAN (Eom & Ham, NeurIPS 2019): the method, and the image grids that it renders."""

from reid_ray.methods.is_gan.method import ISGAN

__all__ = ["ISGAN"]
