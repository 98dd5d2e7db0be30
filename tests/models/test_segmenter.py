"""What a network, a fusion and calibration refuse: pixels, PyTorch's axes, names in the place of modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import se_jax
from se_jax.equalizer.fusion import Equalizer, Fusion
from se_jax.models import ASPPHead, ResNet, Segmenter, normalize
from tests import tiny


@pytest.mark.parametrize(
    "images, message",
    [
        (
            np.zeros((2, 32, 32, 3), np.uint8),
            r"got uint8 images; expected normalised.*network.normalize\(images\)",
        ),
        (np.zeros((2, 32, 32, 3), np.int32), "got int32 images"),
        (np.zeros((2, 3, 32, 160), np.float32), r"\[2, 3, 32, 160\].*PyTorch: images.transpose\(0, 2, 3, 1\)"),
        (np.zeros((2, 32, 160, 1), np.float32), r"expected \[batch, height, width, 3\]"),
        (np.zeros((32, 32, 3), np.float32), r"a batch of one: image\[None\]"),
        (np.zeros((2, 32, 32, 4), np.float32), "images of shape"),
        ([[1.0]], "got list"),
    ],
)
def test_images_that_are_none_are_refused(images, message):
    network = tiny.network("psp")
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: network.init(jax.random.key(0), images))


def test_pixels_in_another_order_are_not_normalised():
    with pytest.raises(ValueError, match="normalize got images of shape .*transpose"):
        normalize(np.zeros((2, 3, 32, 160), np.uint8))


@pytest.mark.parametrize(
    "parts, message",
    [
        (("resnet50", "unet"), "Segmenter encoder is 'resnet50'; expected an encoder module.*se_jax.build"),
        ((ResNet(18), "unet"), "Segmenter decoder is 'unet'; expected a Decoder"),
        ((ResNet(18), ResNet(18)), "Segmenter decoder is "),
        ((ResNet(18), ASPPHead(3), "fcn"), "Segmenter auxiliary is 'fcn'"),
        ((ResNet, ASPPHead(3)), "Segmenter encoder is "),
        ((None, None), "Segmenter encoder is None"),
    ],
)
def test_parts_are_modules(parts, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(*parts)


MAP = jnp.zeros((1, 4, 4, 2))


@pytest.mark.parametrize(
    "operation, branches, message",
    [
        ("concat", [MAP, MAP], "fusion site 'here' got list; expected a dict of branches"),
        ("concat", {}, "one at least"),
        ("concat", {"a": MAP, "b": MAP[0]}, r"branch 'b' is of shape \[4, 4, 2\]"),
        ("concat", {"a": "map"}, "branch 'a' is of str"),
        ("concat", {"a": MAP, "b": MAP[:, :2]}, "maps of several sizes"),
        ("sum", {"a": MAP, "b": MAP[..., :1]}, "sums maps of several channels"),
    ],
)
def test_what_cannot_be_fused_is_named(operation, branches, message):
    with pytest.raises(ValueError, match=message):
        Fusion(operation=operation, name="here").apply({}, branches)


def test_options_of_a_fusion():
    with pytest.raises(ValueError, match="operation is 'cat'; expected one of concat, sum"):
        Fusion(operation="cat")
    with pytest.raises(ValueError, match="equalizer is 'explicit'; expected a se_jax.Equalizer"):
        Fusion("explicit")
    assert Fusion(Equalizer("explicit")).operation == "concat"


@pytest.mark.parametrize("function", [se_jax.equalize, se_jax.measure])
def test_calibration_names_what_it_cannot_take(function):
    network, variables = tiny.network("psp", "explicit"), {"params": {}}

    def one_batch(images):
        return lambda: iter([{"image": images}])

    for arguments, message in (
        (("resnet50", variables, one_batch(0)), "module is 'resnet50'; expected a Linen module"),
        ((network, None, one_batch(0)), "variables have no 'params'"),
        ((network, variables, [1]), "batches is list; expected a function"),
        (
            (network, variables, one_batch(np.zeros((1, 32, 32, 3), np.float32))),
            "images of float32; expected 'image': uint8",
        ),
        ((network, variables, one_batch(np.zeros((1, 3, 32, 32), np.uint8))), "transpose"),
        ((network, variables, lambda: iter([{"images": 0}])), "images of none"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)
