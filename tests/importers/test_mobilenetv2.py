"""MobileNetV2's import tables, both ways, and the torch networks themselves as witnesses."""

import re

import jax
import pytest

from se_jax.importers import import_weights
from se_jax.importers.convert import match
from se_jax.models.encoders.mobilenetv2 import MobileNetV2
from tests.conftest import assert_close_to_reference
from tests.importers import recorded
from tests.importers.recorded import template

WIDTH = 0.5
CLASSIFIERS = {
    "mmseg": r"conv2\..*",
    "torchvision": r"(features\.18|classifier)\..*",
    "timm": r"(conv_head|bn2|classifier)\..*",
}


@pytest.mark.parametrize("layout", ["mmseg", "torchvision", "timm"])
def test_every_tensor_goes_in_and_comes_out(layout):
    tensors = recorded.tensors(f"mobilenetv2_{layout}")
    classifier = {name for name in tensors if re.fullmatch(CLASSIFIERS[layout], name)}
    recorded.assert_there_and_back(MobileNetV2(WIDTH), tensors, layout, classifier)
    assert match(MobileNetV2(WIDTH), tensors, template(MobileNetV2(WIDTH))).layout == layout  # found out


def torch_network(layout):
    """The network, and its modules whose outputs are the encoder's four maps."""
    if layout == "torchvision":
        pytest.importorskip("torchvision")
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2(width_mult=WIDTH, num_classes=3)
        return network, [network.features[i] for i in (3, 6, 13, 17)]
    pytest.importorskip("timm")
    from timm.models import create_model

    network = create_model("mobilenetv2_050", num_classes=3)
    return network, [network.blocks[i] for i in (1, 2, 4, 6)]


@pytest.mark.parametrize(("layout", "output_stride"), [("torchvision", 32), ("timm", 32), ("torchvision", 8)])
def test_equals_the_classification_network(layout, output_stride):
    """As it is at output stride 32; at 8 with mmsegmentation's dilations, of the first block in layers 4 to 7."""
    network, stages = torch_network(layout)
    import torch

    if output_stride == 8:
        for number, dilation in ((7, 2), (11, 2), (14, 4), (17, 4)):
            depthwise = network.features[number].conv[1][0]
            depthwise.stride, depthwise.dilation, depthwise.padding = (1, 1), (dilation,) * 2, (dilation,) * 2

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2, generator=generator)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    encoder = MobileNetV2(WIDTH, output_stride)
    variables = import_weights(encoder, tensors, template(encoder), layout)
    seen = []
    for stage in stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    images = torch.randn(2, 3, 51, 64, generator=generator)
    with torch.no_grad():
        network.eval()(images)
    maps = jax.jit(encoder.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    for actual, expected in zip(maps, seen, strict=True):
        assert_close_to_reference(actual, expected.numpy().transpose(0, 2, 3, 1))
