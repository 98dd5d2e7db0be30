"""Import tables of EoMT by transformers' names, both ways; the authors' are in tests/models/test_eomt.py.

names/eomt_*.txt are tiny networks of transformers 5.24, as written into files and as named in memory alike.
"""

import jax
import numpy as np
import pytest

from se_jax.importers import differences, export_weights, files, import_weights
from se_jax.importers.convert import match
from se_jax.models import EoMTHead, Segmenter, ViT
from tests.importers import recorded

SIZES = {"width": 16, "depth": 2, "heads": 2}
HEAD = EoMTHead(3, queries=5, blocks=1)
DINOV2 = Segmenter(ViT("dinov2_small_reg", **SIZES, patch=16, grid=(4, 4)), HEAD)
DINOV3 = Segmenter(ViT("dinov3_small", **SIZES), HEAD)
BUFFERS = {"attn_mask_probs", "criterion.empty_weight"}


@pytest.mark.parametrize(("model", "name"), [(DINOV2, "eomt_transformers"), (DINOV3, "eomt_transformers_dinov3")])
def test_every_tensor_goes_in_and_comes_out(model, name):
    tensors = recorded.tensors(name)
    assert match(model, tensors, recorded.template(model)).layout == "eomt_transformers"
    skipped = BUFFERS | ({"embeddings.mask_token"} & tensors.keys())
    recorded.assert_there_and_back(model, tensors, "eomt_transformers", skipped)
    variables = import_weights(model, tensors, recorded.template(model))
    again = import_weights(model, export_weights(model, variables, "eomt"), variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_an_encoder_that_is_a_difference_is_added_to_its_base(tmp_path):
    """As the authors publish EoMT on DINOv3; the base is by Meta's names."""
    rng = np.random.default_rng(0)
    whole, base = (jax.tree.map(lambda x: rng.normal(size=x.shape), recorded.template(DINOV3)) for _ in range(2))
    for block in whole["params"]["encoder"].values():
        if isinstance(block, dict) and "attn" in block:
            block["attn"]["qkv"]["bias"][16:32] = 0.0  # that of the keys, which nobody uses
    whole = jax.tree.map(np.float32, whole)
    metas = export_weights(DINOV3.encoder, {"params": base["params"]["encoder"]}, "official")
    files.write(tmp_path / "base.safetensors", metas)
    given = jax.tree.map(np.subtract, whole["params"]["encoder"], base["params"]["encoder"])
    tensors = export_weights(DINOV3, {"params": whole["params"] | {"encoder": given}}, "eomt")
    found = differences.add(match(DINOV3, tensors, recorded.template(DINOV3)), tmp_path / "base.safetensors", DINOV3)
    expected = export_weights(DINOV3, whole, "eomt")
    for name, tensor in export_weights(DINOV3, found.variables, "eomt").items():
        np.testing.assert_allclose(tensor, expected[name], atol=1e-6, err_msg=name)


def test_an_encoder_with_registers_and_a_patch_of_14_starts_an_eomt():
    """As its recipes start: DINOv2's weights, made for the crop; the head keeps its initial values."""
    source = ViT("dinov2_small_reg", **SIZES, patch=14, size=70)
    rng = np.random.default_rng(0)
    template = jax.eval_shape(source.init, jax.random.key(0), np.zeros((1, 70, 70, 3), np.float32))
    tensors = export_weights(source, jax.tree.map(lambda x: rng.normal(size=x.shape), template), "official")
    blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), recorded.template(DINOV2))
    found = match(DINOV2, tensors, blank)
    assert found.adapted == {
        "params/encoder/patch_embed/kernel": "patch 14 -> 16",
        "params/encoder/position": "grid 5 x 5 -> (4, 4)",
    }
    assert all(path.startswith("params/decoder/") for path in found.kept)
    folded = tensors["cls_token"][0, 0] + tensors["pos_embed"][0, 0]
    np.testing.assert_allclose(found.variables["params"]["encoder"]["cls_token"], folded, rtol=1e-5)
