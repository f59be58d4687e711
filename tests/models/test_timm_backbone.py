"""Networks of timm as trunks: equal to timm's own features, batch norms in groups, refusals in one line."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reid_ray.config import BranchConfig, ModelConfig
from reid_ray.errors import ConfigError, WeightsError
from reid_ray.inference.folding import for_extraction
from reid_ray.models import GroupBatchNorm, build_backbone, build_network, load_backbone_weights, timm_backbone

timm = pytest.importorskip("timm")

CONVOLUTIONAL = "resnet10t"
WITH_ACT = "mobilenetv3_small_050"
"""Its batch norms include the activation."""
VIT = "vit_tiny_patch16_224"


def trunk(name):
    return build_backbone(f"timm:{name}", stride_in="conv2", last_stride=1, norm=partial(GroupBatchNorm, group=2))


def config(name, **values):
    return ModelConfig(backbone=f"timm:{name}", weights=None, bn_group=2, **values)


@pytest.mark.parametrize("name", [CONVOLUTIONAL, WITH_ACT])
def test_equals_timm(name):
    torch.manual_seed(0)
    backbone = trunk(name).eval()
    reference = timm.create_model(name, pretrained=False, num_classes=0, global_pool="").eval()
    reference.load_state_dict(backbone.net.state_dict(), strict=True)  # the same names
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = reference.forward_features(images)
        torch.testing.assert_close(backbone(images), expected)
    assert expected.shape[1] == backbone.out_channels
    norms = [layer for layer in backbone.modules() if isinstance(layer, _BatchNorm)]
    assert norms
    assert all(isinstance(layer, GroupBatchNorm) and layer.group == 2 for layer in norms)


def test_tokens_become_a_map():
    """Its mean is that of the patch tokens; the class token is left out."""
    torch.manual_seed(0)
    backbone = trunk(VIT).eval()
    reference = timm.create_model(VIT, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    reference.load_state_dict(backbone.net.state_dict())
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        found = backbone(images)
        tokens = reference.forward_features(images)[:, 1:]
    assert found.shape == (2, 192, 4, 2)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens)


def test_training_normalises_groups():
    torch.manual_seed(0)
    network = build_network(config(WITH_ACT)).double().train()
    images = torch.randn(4, 3, 64, 32, dtype=torch.float64)
    both = network(images).pooled
    torch.testing.assert_close(both[:2], network(images[:2]).pooled)
    torch.testing.assert_close(both[2:], network(images[2:]).pooled)


@pytest.mark.parametrize("name", [CONVOLUTIONAL, VIT])
def test_extraction_leaves_the_network_as_it_is(name):
    torch.manual_seed(0)
    network = build_network(config(name)).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(for_extraction(network).embed(images), network.embed(images))


def test_weights_from_a_file_of_timm(tmp_path):
    torch.manual_seed(0)
    reference = timm.create_model(CONVOLUTIONAL, pretrained=False, num_classes=10)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    backbone = trunk(CONVOLUTIONAL)
    with pytest.warns(UserWarning, match="2 head tensors left out"):
        load_backbone_weights(backbone, tmp_path / "weights.pt")
    expected = reference.state_dict()
    for key, tensor in backbone.net.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
    with pytest.raises(WeightsError, match="holds no network with timm's names"):
        load_backbone_weights(trunk(VIT), tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="torchvision has no weights for timm:resnet10t"):
        build_network(ModelConfig(backbone=f"timm:{CONVOLUTIONAL}"))


def test_unknown_networks():
    with pytest.raises(ConfigError, match=r"no such network; similar names: .*resnet101"):
        trunk("resnet100")
    with pytest.raises(ConfigError, match="cannot be split"):
        build_network(config(CONVOLUTIONAL, branches=(BranchConfig(),)))
    with pytest.raises(ValueError, match=r"'resnet5' is not a backbone \(did you mean 'resnet50'\?\)"):
        ModelConfig(backbone="resnet5")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.1), "Dropout of 0.1, which draws other numbers"),
        (nn.SyncBatchNorm(4), "SyncBatchNorm cannot be computed in groups"),
        (nn.BatchNorm2d(4, affine=False), "BatchNorm2d cannot be computed in groups"),
    ],
)
def test_networks_that_cannot_be_backbones(layer, message, monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    monkeypatch.setattr(timm_backbone, "_create", lambda timm, name: net)
    with pytest.raises(ConfigError, match=message):
        trunk(CONVOLUTIONAL)


def test_without_timm(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(timm_backbone, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'reid-ray\[timm\]'"):
        trunk(CONVOLUTIONAL)
