"""Import table of MixVisionTransformer, both ways.

names/mit_mmseg.txt is recorded from the reference's network, names/mit_official.txt written down from the authors'
source (NVlabs/SegFormer), for which there is no package.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import export_weights, import_weights
from se_jax.models.encoders import MixVisionTransformer

NAMES = pathlib.Path(__file__).parent / "names"
# layout -> the tiny encoder whose tensors names/mit_<layout>.txt lists
ENCODERS = {
    "mmseg": MixVisionTransformer("b0", width=16),
    "official": MixVisionTransformer("b0", width=4, depths=(2, 2, 1, 1)),
}


def random_tensors(layout: str) -> dict[str, np.ndarray]:
    """Random tensors of the recorded names and shapes."""
    rng = np.random.default_rng(0)
    lines = (NAMES / f"mit_{layout}.txt").read_text().splitlines()
    shapes = {name: tuple(map(int, shape)) for name, *shape in map(str.split, lines)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def template(encoder):
    return jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("layout", ENCODERS)
def test_there_and_back(layout):
    encoder, tensors = ENCODERS[layout], random_tensors(layout)
    variables = import_weights(encoder, tensors, template(encoder))
    assert jax.tree.structure(variables) == jax.tree.structure(template(encoder))
    exported = export_weights(encoder, variables, layout)
    assert exported.keys() == {name for name in tensors if not name.startswith("head.")}
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def test_queries_come_before_keys_and_values():
    encoder, tensors = ENCODERS["official"], random_tensors("official")
    block = import_weights(encoder, tensors, template(encoder), "official")["params"]["layers_2_1_0"]
    width = encoder.channels[2]
    np.testing.assert_array_equal(block["attn"]["qkv"]["kernel"][:, :width].T, tensors["block3.0.attn.q.weight"])
    np.testing.assert_array_equal(block["attn"]["qkv"]["bias"][width:], tensors["block3.0.attn.kv.bias"])


def test_both_layouts_describe_one_network():
    """A checkpoint carried from one layout to the other and back is the same."""
    encoder, tensors = ENCODERS["mmseg"], random_tensors("mmseg")
    variables = import_weights(encoder, tensors, template(encoder), "mmseg")
    official = export_weights(encoder, variables, "official")
    assert official["block1.0.mlp.fc1.weight"].shape == tensors["layers.0.1.0.ffn.layers.0.weight"].shape[:2]
    again = export_weights(encoder, import_weights(encoder, official, template(encoder)), "mmseg")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)


def test_half_a_projection_is_refused():
    encoder, tensors = ENCODERS["official"], random_tensors("official")
    del tensors["block3.0.attn.kv.weight"]
    with pytest.raises(ValueError, match="block3.0.attn.kv.weight"):
        import_weights(encoder, tensors, template(encoder))
