"""Build the retrieval network of a configuration."""

from __future__ import annotations

from reid_ray.config import ModelConfig
from reid_ray.models.branches import AsymmetricEmbedder, build_branches
from reid_ray.models.embedder import Embedder, build_embedder
from reid_ray.models.weights import is_model_file, load_model_file


def build_network(config: ModelConfig, *, bf16: bool = False) -> Embedder | AsymmetricEmbedder:
    """A plain network, or one with branches, with initial weights.

    Raises WeightsError if the weights cannot be loaded or do not fit.
    """
    weights = config.weights_of()
    if weights is not None and weights != "torchvision" and is_model_file(weights):
        network = build_network(config.model_copy(update={"weights": None}), bf16=bf16)
        load_model_file(network, weights)
        return network
    return build_branches(config, config.branches, bf16=bf16) if config.branches else build_embedder(config, bf16=bf16)
