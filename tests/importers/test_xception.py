"""Xception's import table, both ways, and timm's network itself as a witness."""

import functools

import jax
import pytest

from se_jax.importers import import_weights
from se_jax.models.encoders.xception import Xception
from tests.conftest import assert_close_to_reference
from tests.importers import recorded
from tests.importers.recorded import template

ENTRY = {"65": ((8, 2), (16, 2), (24, 2)), "71": ((8, 2), (16, 1), (16, 2), (24, 1), (24, 2))}
MIDDLE, EXIT = 2, ((24, 32, 32), (40, 40, 48))


def timm_network(variant, output_stride=32):
    """A tiny network of timm's, in the form of `xception65` or `xception71`."""
    pytest.importorskip("timm")
    from timm.models.xception_aligned import XceptionAligned
    from torch import nn

    channels, blocks = 64, []
    for features, stride in (*ENTRY[variant], *[(ENTRY[variant][-1][0], 1)] * MIDDLE):
        blocks.append({"in_chs": channels, "out_chs": features, "stride": stride})
        channels = features
    blocks.append({"in_chs": channels, "out_chs": EXIT[0], "stride": 2})
    last = {"stride": 1, "no_skip": True, "start_with_relu": False}
    blocks.append({"in_chs": EXIT[0][2], "out_chs": EXIT[1], **last})
    norm = functools.partial(nn.BatchNorm2d, eps=0.001)
    return XceptionAligned(blocks, num_classes=5, output_stride=output_stride, norm_layer=norm)


def our_network(variant, **options):
    return Xception(variant, entry=ENTRY[variant], middle=MIDDLE, exit=EXIT, **options)


def test_every_tensor_goes_in_and_comes_out():
    tensors = recorded.tensors("xception_timm")
    classifier = {name for name in tensors if name.startswith("head.")}
    recorded.assert_there_and_back(our_network("65"), tensors, "timm", classifier)


@pytest.mark.parametrize(
    ("variant", "output_stride", "multi_grid"),
    [("65", 8, None), ("65", 16, (1, 2, 4)), ("71", 16, None), ("71", 32, None)],
)
def test_equals_timm(variant, output_stride, multi_grid):
    network = timm_network(variant, output_stride)
    import torch

    if multi_grid is not None:  # which timm does not have
        for i, factor in enumerate(multi_grid, 1):
            conv = network.blocks[-1].stack.get_submodule(f"conv{i}").conv_dw
            conv.dilation = conv.padding = (conv.dilation[0] * factor,) * 2
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2, generator=generator)
    strided = [i for i, (_, stride) in enumerate(ENTRY[variant]) if stride == 2]
    middle_end = len(ENTRY[variant]) + MIDDLE - 1
    seen = []
    end_points = [network.blocks[i].stack.conv2 for i in strided[1:]] + [network.blocks[middle_end], network.blocks[-1]]
    for module in end_points:
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    encoder = our_network(variant, output_stride=output_stride, multi_grid=multi_grid)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    variables = import_weights(encoder, tensors, template(encoder), "timm")
    images = torch.randn(2, 3, 62, 65, generator=generator)
    with torch.no_grad():
        network.eval()(images)
    maps = jax.jit(encoder.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    for actual, expected in zip(maps, seen, strict=True):
        assert_close_to_reference(actual, expected.numpy().transpose(0, 2, 3, 1))
