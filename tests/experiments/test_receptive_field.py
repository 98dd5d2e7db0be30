"""The effective receptive field: of convolutions whose field is known, of VWFormer's windows, and the command."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import receptive_field
from experiments.receptive_field import Field, cover, measure
from se_jax import importers
from se_jax.config import recipes
from se_jax.config.normalization import IMAGENET, INCEPTION
from se_jax.models import Decoder, Segmenter, VWFormerHead
from se_jax.models.branches import branch_names
from se_jax.models.layers import Conv
from tests import tiny


class Ones(nn.Module):
    """3x3 convolutions of ones, the last one of the given stride: one channel, one level each."""

    strides: tuple[int, ...]
    channels = (1, 1)

    @nn.compact
    def __call__(self, x, train: bool = False):
        maps, x = [], x.sum(-1, keepdims=True) + 100.0  # so that all is positive
        for i, strides in enumerate(self.strides):
            x = Conv(1, 3, strides=strides, kernel_init=nn.initializers.ones, name=f"conv_{i}")(x)
            maps.append(x)
        return tuple(maps)


class Last(Decoder):
    """In place of a head: the last level."""

    num_classes: int = 1

    @nn.compact
    def __call__(self, features, train: bool = False):
        return {"logits": features[-1]}


def pictures(count, height=21, width=33, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def ones(*strides):
    model = Segmenter(Ones(strides), Last())
    return model, model.init(jax.random.key(0), jnp.zeros((1, 21, 33, 3)))


def test_fields_of_convolutions_are_their_taps():
    model, variables = ones(1, 1)
    first = measure(model, variables, pictures(5), "encoder/0", batch=2)
    assert (first.images, first.skipped, first.middle) == (5, 0, (10.0, 16.0))
    expected = np.zeros((21, 33))
    expected[9:12, 15:18] = 1
    np.testing.assert_allclose(first.heat, expected, atol=1e-6)
    np.testing.assert_allclose(first.share, expected / 9, atol=1e-6)

    both = measure(model, variables, pictures(3), "logits")
    line = np.array([1, 2, 3, 2, 1])
    found = both.share[8:13, 14:19]
    np.testing.assert_allclose(found, np.outer(line, line) / 81, atol=1e-6)
    assert np.count_nonzero(both.share) == 25
    np.testing.assert_allclose([both.within(r) for r in (0, 1, 2)], [9 / 81, 49 / 81, 1], rtol=1e-5)
    assert [both.radius(share) for share in (0.1, 0.5, 0.7, 1.0)] == [0, 1, 2, 2]
    # three colours count alike: a gradient is 3 times the taps' product
    np.testing.assert_allclose(both.heat[10, 14:19], np.log10(1 + 9 * line) / np.log10(1 + 27), rtol=1e-5)


def test_the_middle_of_a_strided_map_lies_where_its_taps_do():
    model, variables = ones(1, 2)
    field = measure(model, variables, pictures(2, 16, 24), "encoder/1")
    rows, columns = (np.flatnonzero(field.share.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (6, 10, 10, 14)
    assert field.middle == (8.5, 12.5)  # as resizes see a map's pixels: the middle of the two that it stands for


def test_images_without_gradient_are_left_out_and_counted():
    model, variables = ones(1)
    bright, dark = np.full((21, 33, 3), 255, np.uint8), np.zeros((21, 33, 3), np.uint8)
    variables["params"]["encoder"]["conv_0"]["kernel"] *= -1
    with pytest.raises(ValueError, match="no gradient at any of 2 images"):
        measure(model, variables, [bright, bright])
    field = measure(Segmenter(Itself(), Last()), {}, [bright, dark, bright])  # dark pixels are negative
    assert (field.images, field.skipped) == (2, 1)
    assert field.share[10, 16] == 1


class Itself(nn.Module):
    """The picture itself."""

    channels = (3,)

    @nn.compact
    def __call__(self, x, train: bool = False):
        return (x,)


class Patches(nn.Module):
    """Four levels, of means over 4, 8, 16 and 32 pixels: nothing is seen beyond them."""

    channels = (3, 3, 3, 3)

    @nn.compact
    def __call__(self, x, train: bool = False):
        return tuple(nn.avg_pool(x, (stride, stride), (stride, stride)) for stride in (4, 8, 16, 32))


def test_windows_of_vwformer_see_their_contexts():
    """Of 256 x 256 pixels, windows of 4 x 4: the middle one's context and what the upsampled levels add to it."""
    model = Segmenter(Patches(), VWFormerHead(3, variant="light", channels=128, c1_channels=4, shortcut=False))
    variables = tiny.init(model, 128)
    assert branch_names(model, variables, (256, 256)) == [
        *(f"encoder/{level}" for level in range(4)),
        *(f"mla/level{level}" for level in (3, 2, 1)),
        *(f"branches/{name}" for name in ("short_path", "ratio2", "ratio4", "ratio8")),
        "lle/fused",
        "lle/level0",
        "logits",
    ]
    reached = {}
    for ratio in (2, 4, 8):
        field = measure(model, variables, pictures(2, 256, 256), f"branches/ratio{ratio}", batch=2)
        rows = np.flatnonzero(field.share.any(1))
        reached[ratio] = (rows[0], rows[-1])
    # window 4 of 8: pixels 14 to 21 of 32, one more for the 2 x 2 embedding, then whole pixels of level 3 and one more
    assert reached == {2: (96, 223), 4: (32, 255), 8: (0, 255)}


def test_an_unknown_branch_is_answered_with_those_that_are_there():
    model, variables = ones(1)
    with pytest.raises(ValueError, match="branch is 'fpn', which the network does not have; it has encoder/0, logits"):
        measure(model, variables, pictures(1), "fpn")
    with pytest.raises(ValueError, match="no image"):
        measure(model, variables, [])


def test_images_are_cut_around_their_middle():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 45:55] = 200
    assert cover(image, (20, 20)).shape == (20, 20, 3)
    assert cover(image, (20, 20))[:, 9:11].min() == 200 and cover(image, (20, 20))[:, :6].max() == 0
    assert cover(image, (60, 30)).shape == (60, 30, 3)


def test_picture_and_numbers(tmp_path):
    share = np.zeros((6, 8))
    share[3, 4] = 1
    path = receptive_field.write(Field(share, share, (3.0, 4.0), 2, 1), "fpn/level1", tmp_path / "new")
    assert path.name == "fpn_level1.png" and path.read_bytes().startswith(b"\x89PNG")
    numbers = json.loads(path.with_suffix(".json").read_text())
    assert numbers["branch"] == "fpn/level1" and numbers["images"] == 2 and numbers["skipped"] == 1
    assert numbers["share_within"] == {"0": 1, "1": 1, "2": 1, "4": 1, "8": 1}
    assert numbers["radius_of_share"] == {"0.5": 0, "0.9": 0, "0.99": 0}
    with np.load(path.with_suffix(".npz")) as arrays:
        np.testing.assert_array_equal(arrays["share"], share)


def test_command(tmp_path):
    for i, picture in enumerate(pictures(3, 40, 64)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    command = [sys.executable, "-m", "experiments.receptive_field", f"--images={tmp_path}", f"--output={tmp_path}/out"]
    small = ["--config.model.encoder.depth=10", "--config.model.decoder.channels=4"]
    network = ["--config=configs/shapes_uper.py", *small]
    done = subprocess.run([*command, *network, "--branch=encoder/0", "--count=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "out" / "encoder_0.json").read_text())
    assert numbers["images"] + numbers["skipped"] == 2 and numbers["size"] == [96, 128]
    wrong = subprocess.run([*command, f"--workdir={tmp_path}", *network], capture_output=True, text=True)
    assert wrong.returncode == 1 and "either --workdir" in wrong.stderr


def test_images_are_normalised_as_the_weights_want_them(monkeypatch):
    config = recipes.load("shapes_uper")
    config.init_from = "weights.pth"
    monkeypatch.setattr(receptive_field.parallel, "jit_once", lambda init: dict)
    monkeypatch.setattr(importers, "start_from", lambda path, model, variables: variables)
    monkeypatch.setattr(importers, "normalization_of", lambda path, model, size: INCEPTION)
    assert receptive_field._network(config, None)[1].normalization == INCEPTION
    config.init_from = ""
    assert receptive_field._network(config, None)[1].normalization == IMAGENET
