"""The network as a module built from `config.json` alone, as Hugging Face's `PyTorchModelHubMixin` requires.

class Model(HubNetwork, PyTorchModelHubMixin): ...
model = Model.from_pretrained("exported")
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reid_ray.encoder.description import CONFIG, Description
from reid_ray.encoder.rebuilding import empty_network_of, in_float32


class HubNetwork(nn.Module):
    """The retrieval network in float32, with its original tensor names: normalised images → unit features.

    Args:
        config: the content of `config.json`.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        network = in_float32(empty_network_of(Description.from_json(config, CONFIG)))
        # Adopt the network's children, so that tensor names in the file have no prefix.
        self._modules.update(network._modules)
        self._parameters.update(network._parameters)
        self._buffers.update(network._buffers)
        self._embed = network.embed

    def forward(self, images: Tensor) -> Tensor:
        """float32 [N, 3, H, W], normalised as specified in `config.json` → [N, D]."""
        features: Tensor = self._embed(images)  # type: ignore[operator]
        return features
