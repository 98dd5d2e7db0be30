"""HRNet's import table, both ways, and timm's network itself as a witness."""

import copy

import jax
import pytest

from se_jax.importers.convert import match
from se_jax.models.encoders.hrnet import HRNet
from tests.conftest import assert_close_to_reference
from tests.importers import recorded
from tests.importers.recorded import template

TINY = {
    "mmseg": HRNet(width=8, layer1_blocks=2, layer1_width=16, modules=(1, 2, 2), blocks=2),
    "timm": HRNet(width=4, layer1_blocks=2, layer1_width=8, modules=(1, 1, 1), blocks=1),
}
CLASSIFIER = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.")


def timm_network(encoder):
    """timm's network of the encoder's sizes, with its classifier."""
    hrnet = pytest.importorskip("timm.models.hrnet")
    sizes = encoder.sizes
    config = copy.deepcopy(hrnet.cfg_cls["hrnet_w18"])
    config["stage1"] |= {"num_blocks": (sizes.layer1_blocks,), "num_channels": (sizes.layer1_width,)}
    for branches, modules in enumerate(sizes.modules, 2):
        channels = tuple(sizes.width * 2**branch for branch in range(branches))
        blocks = (sizes.blocks,) * branches
        config[f"stage{branches}"] |= {"num_modules": modules, "num_blocks": blocks, "num_channels": channels}
    return hrnet.HighResolutionNet(config, num_classes=3)


@pytest.mark.parametrize("layout", ["mmseg", "timm"])
def test_every_tensor_goes_in_and_comes_out(layout):
    tensors = recorded.tensors(f"hrnet_{layout}")
    classifier = {name for name in tensors if name.startswith(CLASSIFIER)}
    recorded.assert_there_and_back(TINY[layout], tensors, layout, classifier)


def test_equals_timm_made_bilinear():
    """timm upsamples by nearest neighbour; told to be bilinear it is the same network where no size is odd."""
    encoder = TINY["timm"]
    network = timm_network(encoder).eval()
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2, generator=generator)
    for module in network.modules():
        if isinstance(module, torch.nn.Upsample):
            module.mode = "bilinear"
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    variables = match(encoder, tensors, template(encoder), "timm").variables
    images = torch.randn(2, 3, 64, 32, generator=generator)
    with torch.no_grad():
        x = network.act1(network.bn1(network.conv1(images)))
        expected = network.stages(network.act2(network.bn2(network.conv2(x))))
    maps = jax.jit(encoder.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    for actual, reference in zip(maps, expected, strict=True):
        assert_close_to_reference(actual, reference.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("variant", "name"),
    [("w18_small", "hrnet_w18_small_v2"), ("w18", "hrnet_w18"), ("w32", "hrnet_w32"), ("w48", "hrnet_w48")],
)
def test_published_sizes_have_the_parameters_of_timms(variant, name):
    pytest.importorskip("timm")
    import torch
    from timm.models import create_model

    with torch.device("meta"):
        network = create_model(name)
    count = sum(leaf.numel() for key, leaf in network.named_parameters() if not key.startswith(CLASSIFIER))
    assert count == sum(leaf.size for leaf in jax.tree.leaves(template(HRNet(variant))["params"]))
