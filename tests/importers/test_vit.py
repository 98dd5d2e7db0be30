"""Import tables of ViT, both ways.

names/vit_*.txt are tiny networks of timm 1.0.31 and of transformers 5.24, of the latter as written into files and as
named in memory; the authors' names are those of golden cases.
"""

import jax
import numpy as np
import pytest

from se_jax.config.normalization import IMAGENET, INCEPTION
from se_jax.importers import export_weights, import_weights, tables
from se_jax.importers.convert import match
from se_jax.models import ViT
from tests.conftest import assert_close_to_reference
from tests.importers import recorded
from tests.models.test_vit import CASES, make

SIZES = {"width": 16, "depth": 2, "heads": 2}
DINOV2 = ViT("dinov2_small", **SIZES, patch=14, size=70)
GATED = DINOV2.clone(gated=True)
REGISTERS = ViT("dinov2_small_reg", **SIZES, patch=14, size=70)
DINOV3 = ViT("dinov3_small", **SIZES)
DINOV3_GATED = ViT("dinov3_small_plus", **SIZES)
HEAD, MASK = {"head.weight", "head.bias"}, {"embeddings.mask_token"}


@pytest.fixture(autouse=True)
def whole_patches(monkeypatch):
    """Images whose sides suit patches of 14 and of 16."""
    size = (1, 112, 112, 3)
    monkeypatch.setattr(
        recorded, "template", lambda model: jax.eval_shape(model.init, jax.random.key(0), np.zeros(size, np.float32))
    )


@pytest.mark.parametrize(
    ("model", "layout", "kind", "skipped"),
    [
        (ViT("base", **SIZES, size=64), "timm", "", HEAD),
        (REGISTERS.clone(gated=True, mlp_ratio=4.5), "timm", "_registers", HEAD),
        (DINOV3, "timm", "_dinov3", set()),
        (GATED, "transformers", "_gated", MASK),
        (GATED, "transformers_modules", "_gated", MASK),
        (REGISTERS, "transformers", "_registers", MASK),
        (DINOV3, "transformers", "_dinov3", MASK),
        (DINOV3_GATED, "transformers_modules", "_dinov3_gated", MASK),
    ],
)
def test_every_tensor_goes_in_and_comes_out(model, layout, kind, skipped):
    tensors = recorded.tensors(f"vit_{layout}{kind}")
    found = match(model, tensors, recorded.template(model))
    assert found.normalization == (INCEPTION if kind == "" else IMAGENET)
    recorded.assert_there_and_back(model, tensors, layout, skipped)


def test_timms_smaller_version_of_dinov3_has_no_bias():
    tensors = recorded.tensors("vit_timm_dinov3_gated")
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), recorded.template(DINOV3_GATED))
    found = match(DINOV3_GATED, tensors, variables)
    assert found.kept == tuple(f"params/blocks_{i}/attn/qkv/bias" for i in range(2))


@pytest.mark.parametrize(("name", "part", "variant", "blocks"), CASES)
def test_one_network_by_all_names_is_the_same_network(golden, name, part, variant, blocks):
    """By the authors' names bit by bit; then by the others', as far as these hold everything."""
    case = golden(name, "whole")
    model = make(case.meta[part]["kwargs"], variant, blocks)
    layout, tensors = "timm" if part == "augreg" else "official", case.group(f"{part}/sd")
    found = match(model, tensors, recorded.template(model))
    assert (found.layout, found.kept, found.adapted) == (layout, (), {})
    exported = export_weights(model, found.variables, layout)
    assert exported.keys() == tensors.keys() - found.skipped.keys()
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    images = case[f"{part}/in/0"].transpose(0, 2, 3, 1)
    expected = model.apply(found.variables, images)
    for other in tables.tables_of(model):
        again = import_weights(model, export_weights(model, found.variables, other), found.variables, other)
        for a, b in zip(model.apply(again, images), expected, strict=True):
            assert_close_to_reference(a, b, 1e-5)


def test_blocks_in_chunks():
    tensors = export_weights(DINOV2, jax.tree.map(lambda x: np.ones(x.shape), recorded.template(DINOV2)), "official")
    chunked = {name.replace("blocks.", "blocks.0."): tensor for name, tensor in tensors.items()}
    found, again = (match(DINOV2, state, recorded.template(DINOV2)).variables for state in (tensors, chunked))
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_a_norm_of_the_class_token_of_its_own_is_left_out():
    """DINOv3 can be trained with one, which maps do not show; no published network has it."""
    template = recorded.template(DINOV3)
    tensors = export_weights(DINOV3, jax.tree.map(lambda x: np.ones(x.shape), template), "official")
    untied = {"cls_norm.weight": np.zeros(16), "cls_norm.bias": np.zeros(16)}
    found = match(DINOV3, tensors | untied, template)
    assert found.skipped == dict.fromkeys(untied, "norm of the class token, which no map shows")
