"""Networks for images of one and of four channels: normalisation, imported kernels, predictions, what export says."""

import jax
import numpy as np
import pytest
from PIL import Image

import se_jax
from se_jax.config import options
from se_jax.config.check import check
from se_jax.config.normalization import IMAGENET, for_channels
from se_jax.evaluation.images import resized, visible
from se_jax.evaluation.predictor import Model
from se_jax.evaluation.program import program
from se_jax.evaluation.protocol import Protocol
from se_jax.exporters import _metadata


@pytest.fixture(scope="module")
def grey():
    config = options.get_config()
    config.model.update(num_classes=3, normalization=for_channels(IMAGENET, 1))
    config.model.auxiliary = None
    config.model.encoder = {"name": "tests.training.toy_queries:Patches"}
    config.model.decoder = {"name": "fcn", "channels": 4, "num_convs": 1, "concat_input": False, "in_index": 0}
    config.data.update(name="folder", channels=1)
    return Model(config, None, "abc", np.eye(3))


def test_a_network_by_name_has_the_channels_asked_for():
    model = se_jax.create("unet", "resnet10", 2, channels=4)
    assert model.network.channels == model.config.data.channels == 4


def test_the_normalisation_of_other_channels():
    assert for_channels(IMAGENET, 3) is IMAGENET
    assert for_channels(IMAGENET, 1) == ((114.495,), (57.63,))
    mean, std = for_channels(IMAGENET, 4)
    assert mean == (*IMAGENET[0], IMAGENET[0][0]) and std == (*IMAGENET[1], IMAGENET[1][0])


def test_one_channel_is_predicted_from_arrays_pictures_and_files(grey, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (32, 64), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    found = grey.predict_proba(image)
    assert found.shape == (32, 64, 3) and found.std(axis=(0, 1)).min() > 0
    for given in (image[..., None], Image.fromarray(image), tmp_path / "x.png"):
        np.testing.assert_array_equal(grey.predict_proba(given), found)
    assert grey.overlay(image[..., None], found.argmax(-1)).shape == (32, 64, 3)
    with pytest.raises(ValueError, match=r"takes uint8 \[height, width, 1\].* got uint8 \[32, 64, 3\]"):
        grey.predict(np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="the PIL image has pixels of Pillow's mode RGB; expected L, as data.channels"):
        grey.predict(Image.new("RGB", (64, 32)))
    with pytest.raises(ValueError, match=r"normalize got images of shape .*; expected \[batch, height, width, 1\]"):
        grey.network.normalize(np.zeros((1, 8, 8, 3), np.uint8))


def test_export_takes_and_says_the_channels(grey):
    metadata = _metadata(grey, "onnx", (32, 64), 1, "ids")
    assert metadata["input"] == {"dtype": "uint8", "shape": [1, 32, 64, 1], "colors": "grey", "range": [0, 255]}
    function = program(*grey.folded, Protocol(), (32, 64))
    assert jax.eval_shape(function, jax.ShapeDtypeStruct((1, 32, 64, 1), np.uint8)).shape == (1, 32, 64)


def test_four_channels_are_resized_one_by_one():
    """Pillow would multiply colours by the fourth one, which is alpha to it."""
    image = np.random.default_rng(2).integers(0, 256, (9, 12, 4), dtype=np.uint8)
    found = resized(image, (5, 7))
    expected = Image.fromarray(image[..., 1]).resize((7, 5))
    np.testing.assert_array_equal(found[..., 1], np.asarray(expected))
    np.testing.assert_array_equal(
        resized(image[..., :3], (5, 7)), np.asarray(Image.fromarray(image[..., :3]).resize((7, 5)))
    )
    assert visible(image).shape == (9, 12, 3) and (visible(image[..., :1]) == image[..., :1]).all()


def test_a_normalisation_of_other_channels_is_refused():
    config = options.get_config()
    config.model.normalization = ((1.0,), (2.0,))
    with pytest.raises(ValueError, match="model.normalization is .* of 1 channels; .* data.channels, which is 3"):
        check(config)
    config.data.update(channels=1, name="folder")
    check(config)
    config.data.grey = 0.5
    with pytest.raises(ValueError, match="data.grey is 0.5 with data.channels=1"):
        check(config)
    config.data.update(channels=4, grey=0.0)
    config.model.normalization = None
    with pytest.raises(ValueError, match="--config.data.photometric=False"):
        check(config)
