"""Import table of MixVisionTransformer, both ways.

names/mit_mmseg.txt is recorded from the reference's network, names/mit_official.txt written down from the authors'
source (NVlabs/SegFormer), for which there is no package.
"""

import numpy as np
import pytest

from se_jax.importers import export_weights, import_weights
from se_jax.models.encoders import MixVisionTransformer
from tests.importers import recorded
from tests.importers.recorded import template

# layout -> the tiny encoder whose tensors names/mit_<layout>.txt lists
ENCODERS = {
    "mmseg": MixVisionTransformer("b0", width=16),
    "official": MixVisionTransformer("b0", width=4, depths=(2, 2, 1, 1)),
}


@pytest.mark.parametrize("layout", ENCODERS)
def test_there_and_back(layout):
    tensors = recorded.tensors(f"mit_{layout}")
    classifier = {name for name in tensors if name.startswith("head.")}
    recorded.assert_there_and_back(ENCODERS[layout], tensors, layout, classifier)


def test_queries_come_before_keys_and_values():
    encoder, tensors = ENCODERS["official"], recorded.tensors("mit_official")
    block = import_weights(encoder, tensors, template(encoder), "official")["params"]["layers_2_1_0"]
    width = encoder.channels[2]
    np.testing.assert_array_equal(block["attn"]["qkv"]["kernel"][:, :width].T, tensors["block3.0.attn.q.weight"])
    np.testing.assert_array_equal(block["attn"]["qkv"]["bias"][width:], tensors["block3.0.attn.kv.bias"])


def test_both_layouts_describe_one_network():
    """A checkpoint carried from one layout to the other and back is the same."""
    encoder, tensors = ENCODERS["mmseg"], recorded.tensors("mit_mmseg")
    variables = import_weights(encoder, tensors, template(encoder), "mmseg")
    official = export_weights(encoder, variables, "official")
    assert official["block1.0.mlp.fc1.weight"].shape == tensors["layers.0.1.0.ffn.layers.0.weight"].shape[:2]
    again = export_weights(encoder, import_weights(encoder, official, template(encoder)), "mmseg")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


def test_half_a_projection_is_refused():
    encoder, tensors = ENCODERS["official"], recorded.tensors("mit_official")
    del tensors["block3.0.attn.kv.weight"]
    with pytest.raises(ValueError, match="block3.0.attn.kv.weight"):
        import_weights(encoder, tensors, template(encoder))
