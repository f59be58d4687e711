"""DG-VAE (Pu et al., ACM MM 2020): see `method`."""

from reid_ray.methods.dg_vae.method import DGVAE

__all__ = ["DGVAE"]
