"""Import tables of Mask2Former, both ways.

names/mask2former_*.txt are tiny networks: as mmsegmentation makes it and by the authors' names of the same modules; as
transformers 5.24 writes it into a file and names it in memory. names/vw_mask2former_*.txt are the authors' pixel
decoders. Those of a ResNet by detectron2's names are written down below.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import export_weights, import_weights
from se_jax.importers.convert import match
from se_jax.importers.skip import Skip
from se_jax.models import Mask2FormerHead, ResNet, Segmenter, Swin, VWMask2FormerHead
from tests.importers import recorded

REFERENCE = Segmenter(
    Swin(width=16, depths=(2, 1, 2, 1), heads=(1, 2, 4, 4), window=4, mlp_ratio=2),
    Mask2FormerHead(
        5, channels=64, queries=6, layers=3, heads=4, hidden=40, pixel_layers=2, pixel_heads=4, pixel_hidden=48
    ),
)
TRANSFORMERS = Segmenter(
    Swin(width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 4), window=4, mlp_ratio=2),
    Mask2FormerHead(
        5,
        channels=32,
        mask_channels=48,
        queries=6,
        layers=3,
        heads=4,
        hidden=40,
        pixel_layers=2,
        pixel_heads=4,
        pixel_hidden=24,
    ),
)
EMPTY = "criterion.empty_weight"
SWIN_NORM = {f"model.pixel_level_module.encoder.swin.layernorm.{part}" for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("model", "layout", "skipped"),
    [
        (REFERENCE, "mmseg", set()),
        (REFERENCE, "detectron2", {EMPTY}),
        (TRANSFORMERS, "transformers", {EMPTY, *SWIN_NORM}),
        (TRANSFORMERS, "transformers_modules", {EMPTY, *SWIN_NORM}),
    ],
)
def test_whole_networks_there_and_back(model, layout, skipped):
    tensors = recorded.tensors(f"mask2former_{layout}")
    assert match(model, tensors, recorded.template(model)).layout == layout
    recorded.assert_there_and_back(model, tensors, layout, skipped)


def test_one_network_by_all_names_is_the_same_network():
    model = REFERENCE
    template = recorded.template(model)
    variables = import_weights(model, recorded.tensors("mask2former_mmseg"), template)
    for layout in ("detectron2", "transformers", "transformers_modules"):
        again = import_weights(model, export_weights(model, variables, layout), template)
        jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_queries_have_an_older_name():
    tensors = recorded.tensors("mask2former_detectron2")
    older = {name.replace("query_feat", "static_query"): tensor for name, tensor in tensors.items()}
    assert older.keys() != tensors.keys()
    new, old = (import_weights(REFERENCE, state, recorded.template(REFERENCE)) for state in (tensors, older))
    jax.tree.map(np.testing.assert_array_equal, new, old)


def test_a_resnet_by_detectron2s_names():
    """detectron2's R-50.pkl and its own stem: convolutions have their norm below them, stages are res2 to res5."""
    encoder = ResNet(50, "v1b", output_stride=32, width=8)
    template = recorded.template(encoder)
    blank = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), template)
    exported = export_weights(encoder, blank, "detectron2")
    norms = ("weight", "bias", "running_mean", "running_var")
    expected = {f"stem.conv1.{name}" for name in ("weight", *(f"norm.{norm}" for norm in norms))}
    for stage, blocks in enumerate((3, 4, 6, 3), 2):
        for block in range(blocks):
            for conv in ("conv1", "conv2", "conv3", *(["shortcut"] if block == 0 else [])):
                scope = f"res{stage}.{block}.{conv}."
                expected |= {scope + "weight", *(f"{scope}norm.{norm}" for norm in norms)}
    assert exported.keys() == expected
    whole = {f"backbone.{name}": tensor for name, tensor in exported.items()}
    found = match(encoder, whole, template)
    assert (found.layout, found.kept) == ("detectron2", ())


@pytest.mark.parametrize("variant", ["a", "b"])
def test_the_authors_windows_there_and_back(variant):
    """One norm has many names; one is enough."""
    head = VWMask2FormerHead(5, channels=32, variant=variant, vw_channels=128, vw_heads=4, low_channels=8, layers=1)
    features = [jnp.zeros((1, 64 >> i, 64 >> i, c)) for i, c in enumerate((12, 20, 28, 36))]
    template = jax.eval_shape(head.init, jax.random.key(0), features)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), template)
    for layout in ("mmseg", "detectron2"):
        tensors = export_weights(head, variables, layout)
        names = {name.removeprefix("pixel_decoder.") for name in tensors if name.startswith("pixel_decoder.")}
        windows = {name for name in names if not re.match("input_|level_|encoder|transformer", name)}
        assert windows == recorded.tensors(f"vw_mask2former_{variant}").keys()
        tensors["pixel_decoder.cat_0.norm.weight"] = tensors["pixel_decoder.linear_c4.norm.weight"]
        found = match(head, tensors, template)
        assert list(found.skipped) == ["pixel_decoder.cat_0.norm.weight"]
        jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


def test_a_classifier_of_other_classes_is_kept_as_it_was():
    tensors = recorded.tensors("mask2former_detectron2")
    other = REFERENCE.clone(decoder=REFERENCE.decoder.clone(num_classes=7))
    shapes = recorded.template(other)
    with pytest.raises(ValueError, match=r"class_embed.weight is \(6, 64\) .*, \(8, 64\) in this network"):
        import_weights(other, tensors, shapes)
    initial = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    kept = match(other, tensors, initial, skip=Skip("classifier", other)).kept
    assert {path.split("/")[-2] for path in kept} == {"cls_embed"}
