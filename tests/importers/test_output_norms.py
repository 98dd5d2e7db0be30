"""Swin and ConvNeXt, whose maps have norms that only the reference's layout knows: every layout, both ways."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from se_jax.importers import export_weights, import_weights
from se_jax.importers.convert import match
from se_jax.models.encoders import ConvNeXt, Swin
from tests.importers import recorded

LAYOUTS = ("mmseg", "timm", "official", "torchvision")
NORMS = {f"norm{stage}.{name}" for stage in range(4) for name in ("weight", "bias")}
# name of the recorded layouts -> our encoder of their sizes
ENCODERS = {
    "convnext": ConvNeXt(widths=(16, 32, 64, 128), depths=(2, 2, 3, 2)),
    "swin": Swin(width=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8)),
}
DERIVED = ("relative_position_index", "attn_mask")


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request):
    """Its name, the encoder, and variables that no import can have made: nan everywhere."""
    model = ENCODERS[request.param]
    template = recorded.template(model)
    return request.param, model, jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), template)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_goes_in_and_comes_out(encoder, layout):
    name, model, variables = encoder
    state = recorded.tensors(f"{name}_{layout}")
    result = match(model, state, variables)
    assert result.layout == layout
    assert not result.adapted
    classifier = {tensor for tensor in state if tensor.split(".")[0] in ("norm", "head", "classifier")}
    assert set(result.skipped) == classifier | {tensor for tensor in state if tensor.endswith(DERIVED)}
    filled = {"/".join(key) for key, leaf in flatten_dict(result.variables).items() if not np.isnan(leaf).any()}
    assert {"/".join(key) for key in flatten_dict(variables)} == filled | set(result.kept)
    norms = {f"params/norm{stage}/{name}" for stage in range(4) for name in ("scale", "bias")}
    assert set(result.kept) == (set() if layout == "mmseg" else norms)
    exported = export_weights(model, result.variables, layout)
    assert set(exported) == (set(state) - set(result.skipped)) | NORMS
    for tensor in set(exported) - (NORMS - set(state)):
        np.testing.assert_array_equal(exported[tensor], state[tensor], err_msg=tensor)


def test_layouts_agree_on_one_network(encoder):
    """What one layout wrote, another reads as the same network."""
    name, model, variables = encoder
    original = import_weights(model, recorded.tensors(f"{name}_mmseg"), variables)
    for layout in LAYOUTS:
        again = import_weights(model, export_weights(model, original, layout), variables)
        jax.tree.map(np.testing.assert_array_equal, again, original)
