"""Constants: saved by the command that fits them, loaded for the run that they were made for and no other."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import constants, losses
from se_jax.config import datasets
from se_jax.config import options as defaults
from se_jax.models import build

NAMES = ["a", "b", "c"]


def options(**changes):
    config = datasets.shapes(defaults.decoder("dupsampling"), output_stride=16)
    config.update_from_flattened_dict(changes)
    return config


def check(config):
    model = build(config.model)
    model.decoder.check(config.model.encoder.output_stride, config.data.crop)
    losses.build(config.loss, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.crop": (100, 128)}, r"crop is \(100, 128\).*16x16.*multiple of 16.*\(96, 128\) or \(112, 128\)"),
        ({"model.decoder.codes": 2305}, "codes is 2305; a window of 16x16 pixels of 9 classes has 2304.*1 to 2304"),
        ({"model.decoder.codes": 0}, "codes is 0"),
        ({"model.decoder.ratio": 32}, "ratio is 32, but the encoder's last map has stride 16.*set the ratio to 16"),
    ],
)
def test_options_that_cannot_be_are_refused_with_what_would_do(changes, message):
    with pytest.raises(ValueError, match=message):
        check(options(**changes))


def test_a_loss_of_codes_needs_a_decoder_that_has_them():
    config = datasets.shapes(defaults.decoder("aspp"))
    config.loss.name = "codes"
    with pytest.raises(ValueError, match="name is 'codes', but ASPPHead has no codes"):
        check(config)


@pytest.mark.parametrize("crop", [(512, 512), (513, 513), (96, 129)])
def test_crops_of_whole_windows_and_of_one_pixel_more_are_taken(crop):
    check(options(**{"data.crop": crop}))


def model_of(**changes):
    return build(options(**{f"model.decoder.{name}": value for name, value in changes.items()}).model)


def test_constants_come_back_for_the_run_that_they_were_made_for_and_no_other(tmp_path):
    rng = np.random.default_rng(0)
    fitted = {"kernel": rng.normal(size=(5, 768)).astype(np.float32), "bias": np.ones(768, np.float32)}
    made = {"dupsampling": {"decoder": {"dupsample": fitted}}}
    facts = {"classes": NAMES, "ratio": 16, "codes": 5}
    constants.save(tmp_path, made, facts)
    loaded = constants.load(tmp_path, model_of(codes=5), tuple(NAMES))
    assert jax.tree.structure(loaded) == jax.tree.structure(made)
    jax.tree.map(np.testing.assert_array_equal, loaded, made)
    assert json.loads((tmp_path / "constants.json").read_text()) == facts
    for changes, classes, message in (
        ({"codes": 6}, NAMES, r"fitted for codes 5, but this run has 6 \(model.decoder.codes\)"),
        ({"ratio": 32}, NAMES, "fitted for ratio 16, but this run has 32"),
        ({}, ["a", "b"], r"fitted for classes 3 \['a', 'b', 'c'\], but this run has 2 .*fit again: python -m"),
        ({}, ["a", "b", "d"], "fitted for classes"),
    ):
        with pytest.raises(ValueError, match=message):
            constants.load(tmp_path, model_of(**{"codes": 5} | changes), classes)
    with pytest.raises(ValueError, match="constants_from is empty.*python -m se_jax.dupsample_fit --config=FILE"):
        constants.load("", model_of(), NAMES)
    with pytest.raises(FileNotFoundError, match="constants.npz or constants.json is missing; run python -m"):
        constants.load(tmp_path / "none", model_of(), NAMES)


def test_constants_take_the_place_of_those_a_network_is_born_with():
    variables = {"params": {"w": jnp.ones(2)}, "fitted": {"decoder": {"kernel": jnp.zeros((2, 3))}}}
    placed = constants.place(variables, {"fitted": {"decoder": {"kernel": np.ones((2, 3), np.float32)}}})
    assert placed["params"] is variables["params"] and (placed["fitted"]["decoder"]["kernel"] == 1).all()
    with pytest.raises(ValueError, match="constants do not fit the network: fitted/decoder/kernel"):
        constants.place(variables, {"fitted": {"decoder": {"kernel": np.ones((3, 3), np.float32)}}})
