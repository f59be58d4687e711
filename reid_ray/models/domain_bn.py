"""One network for two domains: domain-specific batch norm (Chang et al., CVPR 2019), as SpCL uses it."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Network = TypeVar("Network", bound=nn.Module)


def with_domain_bn(network: Network) -> Network:
    """A network that shares all weights with `network` except batch norms, which are copied.

    Training either network updates the shared weights; each keeps the scales, shifts and statistics of its own domain.
    The given network is unchanged: it is evaluated and exported without the other network's batch norms.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    own = {id(parameter) for layer in norms for parameter in layer.parameters()}
    shared = {id(parameter): parameter for parameter in network.parameters() if id(parameter) not in own}
    return deepcopy(network, memo=shared)  # deepcopy treats entries of its memo as already copied
