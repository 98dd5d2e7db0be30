"""ViT and EoMT against networks of transformers with random weights: read in, run, and written back bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import parallel
from se_jax.importers import export_weights
from se_jax.importers.convert import match
from se_jax.models import EoMTHead, Segmenter, ViT
from tests.conftest import assert_close_to_reference
from tests.models.test_eomt import Given

TOLERANCE = 2e-5  # an epsilon of 1e-5 in the place of 1e-6 shows at 2.6e-5
SIZES = {"width": 24, "heads": 2}


def read(model, tensors: dict, size, skipped: set[str]):
    """The variables of a checkpoint, which the way back gives again."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    found = match(model, tensors, shapes)
    exported = export_weights(model, found.variables, found.layout)
    assert exported.keys() == tensors.keys() - skipped
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)
    return found.variables


@pytest.mark.parametrize(
    ("part", "model"),
    [
        ("dinov2", ViT("dinov2_small", size=20, offset=0.0, **SIZES, depth=2, patch=4)),
        ("registers", ViT("dinov2_small_reg", size=20, gated=True, **SIZES, depth=2, patch=4)),
        ("dinov3", ViT("dinov3_small", **SIZES, depth=2, patch=4)),
        ("gated", ViT("dinov3_small_plus", mlp_ratio=6.0, **SIZES, depth=2, patch=4)),
    ],
)
def test_maps_equal_those_of_transformers(golden, part, model):
    """At the size of the table of positions, and at another one; whose 0.1 of DINOv2 transformers leaves out."""
    case = golden("vit_transformers")
    variables = read(model, case.group(f"{part}/sd"), (20, 20), {"embeddings.mask_token"})
    for i in range(2):
        (y,) = jax.jit(model.apply)(variables, case[f"{part}/in/{i}"].transpose(0, 2, 3, 1))
        assert_close_to_reference(y, case[f"{part}/out/{i}"], TOLERANCE)


def test_masked_predictions_and_their_gradients_equal_those_of_transformers(golden):
    case = golden("eomt_transformers")
    tensors, sizes = case.group("sd"), case.meta["kwargs"]
    encoder = ViT("dinov2_small_reg", **SIZES, depth=sizes["num_hidden_layers"], patch=16, grid=(4, 4))
    model = Segmenter(encoder, EoMTHead(sizes["num_labels"], queries=sizes["num_queries"], blocks=sizes["num_blocks"]))
    buffers = {"attn_mask_probs", "criterion.empty_weight", "embeddings.mask_token", "embeddings.position_ids"}
    variables = read(model, tensors, (64, 64), buffers & tensors.keys())
    images = case["in"].transpose(0, 2, 3, 1)
    opened = np.zeros((sizes["num_blocks"], len(images), sizes["num_queries"]), bool)

    def total(params):
        outputs = Given(model.encoder, model.decoder).apply({"params": params}, images, opened)
        masks = outputs["mask_features"].transpose(0, 1, 4, 2, 3)
        found = {"masks": masks, "classes": outputs["class_logits"]}
        products = (
            jnp.sum(value[p] * case[f"in/weights/{p}/{name}"]) / value[p, 0].size
            for name, value in found.items()
            for p in range(len(value))
        )
        return sum(products), found

    gradients, found = parallel.jit_once(jax.grad(total, has_aux=True))(variables["params"])
    for name, value in found.items():
        for p, prediction in enumerate(value):
            assert_close_to_reference(prediction, case[f"out/{p}/{name}"], TOLERANCE)
    tensors = export_weights(model, {"params": gradients}, "eomt_transformers")
    for name, expected in case.group("out/grad").items():
        assert_close_to_reference(tensors[name], expected, 3e-4)
