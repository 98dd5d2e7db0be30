"""Swin: what its layouts order differently or lack; and the torch networks themselves where installed."""

import jax
import numpy as np
import pytest

from se_jax.importers import adapt, import_weights
from se_jax.importers.convert import match
from se_jax.models.encoders import Swin
from se_jax.models.encoders.swin import EPSILON, PatchMerging
from tests.importers import recorded
from tests.importers.witness import assert_same_before_the_output_norms, torch_network

NORMS = {f"norm{stage}.{name}" for stage in range(4) for name in ("weight", "bias")}
TINY = {"width": 8, "depths": (2, 1, 2, 1), "heads": (1, 2, 2, 4), "window": 2}


def initial(model):
    """Variables that no import can have made: nan everywhere."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), recorded.template(model))


@pytest.fixture(scope="module")
def encoder():
    model = Swin(width=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8))
    return model, initial(model)


def test_checkpoints_converted_for_the_reference_lack_the_output_norms(encoder):
    """mmsegmentation's converter passes the classifier's norm and the masks on."""
    model, variables = encoder
    state = {name: tensor for name, tensor in recorded.tensors("swin_mmseg").items() if name not in NORMS}
    state |= {"norm.weight": np.ones(192), "stages.0.blocks.1.attn_mask": np.zeros((64, 49, 49))}
    result = match(model, state, variables)
    assert result.layout == "mmseg"
    assert len(result.kept) == len(NORMS)


def test_bias_tables_of_another_window_are_resized(encoder):
    smaller = Swin(width=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4)
    state = recorded.tensors("swin_mmseg")
    found = match(smaller, state, recorded.template(smaller))
    assert set(found.adapted.values()) == {"window 7 -> 4, bicubic"} and len(found.adapted) == 8
    name = "stages.1.blocks.0.attn.w_msa.relative_position_bias_table"
    table = found.variables["params"]["stages_1_blocks_0"]["attn"]["bias_table"]
    np.testing.assert_array_equal(table, adapt.resize_bias_table(state[name], 7))


@pytest.mark.parametrize("layout", ["timm", "official", "torchvision"])
def test_patch_merging_takes_the_pixels_in_the_order_of_the_layout(encoder, layout):
    """The original: x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2] one behind the other, norm, linear."""
    model, variables = encoder
    state = recorded.tensors(f"swin_{layout}")
    names = {"timm": "layers.1.downsample", "official": "layers.0.downsample", "torchvision": "features.2"}
    x = np.random.default_rng(1).normal(size=(1, 4, 6, 24)).astype(np.float32)
    pixels = np.concatenate([x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))], axis=-1)
    normal = (pixels - pixels.mean(-1, keepdims=True)) / np.sqrt(pixels.var(-1, keepdims=True) + EPSILON)
    normal = normal * state[f"{names[layout]}.norm.weight"] + state[f"{names[layout]}.norm.bias"]
    expected = normal @ state[f"{names[layout]}.reduction.weight"].T
    params = import_weights(model, state, variables)["params"]["stages_0_downsample"]
    np.testing.assert_allclose(PatchMerging().apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_same_maps_as_torchvision():
    """Also where windows need padding; every map is larger than a window, since torchvision drops the shift if not."""
    torch = pytest.importorskip("torch")
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    heads, depths = list(TINY["heads"]), list(TINY["depths"])
    network, state = torch_network(lambda: swin.SwinTransformer([4, 4], 8, depths, heads, [2, 2], num_classes=3))
    x = np.random.default_rng(0).normal(size=(2, 3, 68, 84)).astype(np.float32)
    maps, y = [], torch.from_numpy(x)
    with torch.no_grad():
        for index, layer in enumerate(network.features):
            y = layer(y)
            if index % 2:
                maps.append(y.numpy())
    assert_same_before_the_output_norms(Swin(**TINY), EPSILON, state, "torchvision", x, maps)


def test_same_maps_as_timm():
    """At whole windows and maps larger than a window: timm shifts before it pads, and drops the shift if not."""
    torch = pytest.importorskip("torch")
    swin = pytest.importorskip("timm.models.swin_transformer")
    size = (128, 192)
    network, state = torch_network(
        lambda: swin.SwinTransformer(
            img_size=size, window_size=2, embed_dim=8, depths=TINY["depths"], num_heads=TINY["heads"], num_classes=3
        )
    )
    x = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    with torch.no_grad():
        maps = network.forward_intermediates(torch.from_numpy(x), intermediates_only=True)
    assert_same_before_the_output_norms(
        Swin(**TINY), EPSILON, state, "timm", x, [m.permute(0, 2, 3, 1).numpy() for m in maps]
    )
