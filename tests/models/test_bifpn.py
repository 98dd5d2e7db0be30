"""BiFPN: the graph, its layers against their definitions, EfficientDet-D0 rebuilt with it."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments import counts
from se_jax.models import EfficientNet, layers
from se_jax.models.bifpn import BiFPN, Node, avg_pool_same, graph, max_pool_same


def features(size=(45, 60), channels=(4, 6, 8, 8), lowest=2):
    """Maps P_lowest, .. of an encoder that rounds up, drawn."""
    rng, maps = np.random.default_rng(0), []
    for level, width in enumerate(channels, lowest):
        height, length = (-(-side // 2 ** (level - lowest)) for side in size)
        maps.append(jnp.asarray(rng.normal(size=(2, height, length, width)), jnp.float32))
    return maps


# ---- The graph ----


def test_graph_of_five_levels_is_the_published_list():
    """The comment in google/automl's fpn_configs.py."""
    published = [
        (6, [3, 4]),
        (5, [2, 5]),
        (4, [1, 6]),
        (3, [0, 7]),
        (4, [1, 7, 8]),
        (5, [2, 6, 9]),
        (6, [3, 5, 10]),
        (7, [4, 11]),
    ]
    assert graph(3, 7) == tuple(Node(level, tuple(inputs)) for level, inputs in published)


def test_graph_of_p2_to_p9_has_14_nodes():
    """By names: P_l is the input, T_l the node of the way down, B_l that of the way up."""
    nodes = graph(2, 9)
    names = [f"P{level}" for level in range(2, 10)]
    names += [f"T{level}" for level in range(8, 1, -1)] + [f"B{level}" for level in range(3, 10)]
    found = {names[8 + i]: [names[number] for number in node.inputs] for i, node in enumerate(nodes)}
    expected = {"T8": ["P8", "P9"]}  # the coarsest is its own
    expected |= {f"T{level}": [f"P{level}", f"T{level + 1}"] for level in range(7, 1, -1)}
    expected |= {"B3": ["P3", "T3", "T2"]}  # the finest node down is that level's output
    expected |= {f"B{level}": [f"P{level}", f"T{level}", f"B{level - 1}"] for level in range(4, 9)}
    expected |= {"B9": ["P9", "B8"]}
    assert found == expected and len(nodes) == 14
    assert sum(len(node.inputs) for node in nodes) == 34


# ---- Its layers ----


@pytest.mark.parametrize("size", [(6, 5), (1, 2)])
def test_pooling_is_tensorflows_same(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)

    def reference(x):
        return nn.max_pool(x, (3, 3), (2, 2), "SAME")

    @functools.partial(jax.jit, static_argnums=1)
    def pool(x, f):
        """The pooled map, and a gradient that tells its pixels apart."""
        y, pull = jax.vjp(f, x)
        return y, *pull(jnp.arange(1.0, y.size + 1).reshape(y.shape))

    ours, expected = pool(x, max_pool_same), pool(x, reference)
    np.testing.assert_array_equal(ours[0], expected[0])
    np.testing.assert_allclose(ours[1], expected[1], rtol=1e-6)
    ones = avg_pool_same(jnp.ones_like(x))
    assert ones.shape == ours[0].shape
    np.testing.assert_allclose(ones, 1, rtol=1e-6)  # padding is not counted


@pytest.mark.parametrize("size", [(6, 8), (5, 9)])
def test_nearest_reads_the_pixel_that_tensorflow_reads(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    rows, columns = (np.arange(n) * source // n for n, source in zip(size, (3, 4), strict=True))
    np.testing.assert_array_equal(layers.resize_nearest(jnp.asarray(x), size), x[:, rows][:, :, columns])


def op(x, variables, activation):
    """Activation, depthwise-separable convolution with bias, BatchNorm in inference, written out."""
    params, statistics = variables
    dims = ("NHWC", "HWIO", "NHWC")
    x = activation(x)
    depthwise = params["depthwise"]["kernel"]
    x = lax.conv_general_dilated(x, depthwise, (1, 1), "SAME", dimension_numbers=dims, feature_group_count=x.shape[-1])
    x = x @ params["pointwise"]["kernel"][0, 0] + params["pointwise"]["bias"]
    return norm(x, params["bn"], statistics["bn"])


def norm(x, params, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-3) * params["scale"] + params["bias"]


def draw(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.2, 1.2, leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize(
    ("fusion", "upsample", "downsample", "activation"),
    [("fast", "nearest", "max", "silu"), ("channel_softmax", "bilinear", "average", "relu")],
)
def test_a_cell_is_its_formula(fusion, upsample, downsample, activation):
    """P3, P4, P5 -> P3 .. P7, of odd sizes, one cell, against the recursion of EfficientDet's section 3.3."""
    maps = features((11, 14), (4, 6, 8), lowest=3)
    model = BiFPN(8, 1, 3, 7, fusion, upsample, downsample, activation)
    variables = draw(jax.eval_shape(model.init, jax.random.key(0), maps))
    params, statistics = variables["params"], variables["batch_stats"]

    def both(name):
        return params[name], statistics[name]

    def resample(x, level, use):
        if x.shape[-1] == 8:
            return x
        p, s = both(f"resample_{level}_{use}")
        return norm(x @ p["conv"]["kernel"][0, 0] + p["conv"]["bias"], p["bn"], s["bn"])

    def fuse(site, node, *inputs):
        if fusion == "fast":
            w = np.maximum(params[site]["fast_weights"], 0)
            w = w / (w.sum() + 1e-4)
        else:
            w = np.exp(params[site]["softmax_weights"])
            w = w / w.sum(0)
        fused = sum(weight * x for weight, x in zip(w, inputs, strict=True))
        return op(fused, both(f"node_0_{node}"), {"silu": nn.silu, "relu": nn.relu}[activation])

    def up(x, like):
        size = like.shape[1:3]
        return layers.resize_nearest(x, size) if upsample == "nearest" else layers.resize(x, size)

    down = max_pool_same if downsample == "max" else avg_pool_same
    p = dict(enumerate(maps, 3))
    p[6] = down(resample(p[5], 6, 0))
    p[7] = down(p[6])
    first = {level: resample(p[level], level, 0) for level in (3, 4, 5)} | {6: p[6]}
    second = {level: resample(p[level], level, 1) for level in (4, 5)} | {6: p[6]}
    t, b = {7: p[7]}, {}
    for node, level in enumerate((6, 5, 4, 3)):
        t[level] = fuse(f"topdown_0_{level}", node, first[level], up(t[level + 1], p[level]))
    b[3] = t[3]
    for node, level in enumerate((4, 5, 6), 4):
        b[level] = fuse(f"bottomup_0_{level}", node, second[level], t[level], down(b[level - 1]))
    b[7] = fuse("bottomup_0_7", 7, p[7], down(b[6]))

    found = jax.jit(model.apply)(variables, maps)
    assert len(found) == 5
    for level, x in enumerate(found, 3):
        np.testing.assert_allclose(x, b[level], rtol=2e-4, atol=2e-4)


def test_every_use_of_an_encoder_map_has_a_convolution_of_its_own():
    maps = [jax.ShapeDtypeStruct((1, 512 // 2**i, 512 // 2**i, 16), jnp.float32) for i in (2, 3, 4, 5)]
    params = jax.eval_shape(BiFPN(8, 2).init, jax.random.key(0), maps)["params"]
    uses = collections.Counter(name.split("_")[1] for name in params if name.startswith("resample"))
    assert uses == {"2": 1, "3": 2, "4": 2, "5": 2, "6": 1}  # P6's is behind P5, P7 and up need none
    params = jax.eval_shape(BiFPN(16, 2).init, jax.random.key(0), maps)["params"]
    assert not any(name.startswith("resample") for name in params)


def sizes(given, **options):
    """Sizes of the pyramid's levels, for those of an encoder's maps."""
    maps = [jax.ShapeDtypeStruct((1, *size, 8), jnp.float32) for size in given]
    levels, _ = jax.eval_shape(BiFPN(8, 1, **options).init_with_output, jax.random.key(0), maps)
    return [x.shape[1:3] for x in levels]


def test_sizes_are_rounded_up_to_p9():
    assert sizes([(1024 // 2**level, 2048 // 2**level) for level in (2, 3, 4, 5)])[4:] == [
        (16, 32),
        (8, 16),
        (4, 8),
        (2, 4),
    ]
    assert sizes([x.shape[1:3] for x in features((65, 91))])[4:] == [(5, 6), (3, 3), (2, 2), (1, 1)]


def test_an_encoder_that_rounds_down_fits_too():
    maps = [(25, 31), (12, 15), (6, 7), (3, 3)]
    assert sizes(maps, top_level=7) == [*maps, (2, 2), (1, 1)]


# ---- EfficientDet-D0 ----


def test_efficientdet_d0_has_its_parameters():
    """EfficientNet-B0, P3 .. P7, 64 channels, 3 cells, fast fusion; the heads counted by hand: 3.88 million."""
    encoder = EfficientNet("b0")
    maps = [
        jax.ShapeDtypeStruct((1, 512 // 2**level, 512 // 2**level, width), jnp.float32)
        for level, width in zip((3, 4, 5), encoder.channels[1:], strict=True)
    ]
    neck = BiFPN(64, 3, lowest=3, top_level=7, fusion="fast", upsample="nearest")
    separable = 9 * 64 + 64 * 64 + 64
    towers = 2 * 3 * (separable + 5 * 2 * 64)  # box and class: three convolutions, BatchNorms of every level
    predictions = sum(9 * 64 + 64 * outputs + outputs for outputs in (9 * 4, 9 * 90))  # nine anchors
    total = counts.parameters(encoder) + counts.parameters(neck, maps) + towers + predictions
    assert round(total / 1e6, 2) == 3.88


# ---- Bad input ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fusion": "attention"},
            "fusion is 'attention'; expected one of sum, fast, softmax, channel_fast,",
        ),
        ({"upsample": "cubic"}, "upsample is 'cubic'; expected one of bilinear, nearest"),
        ({"downsample": "stride"}, "downsample is 'stride'; expected one of max, average"),
        ({"activation": "gelu"}, "activation is 'gelu'; expected one of silu, relu"),
        ({"momentum": 1.5}, r"momentum is 1.5; expected a share in \(0, 1\]"),
        ({"repeats": 0}, "repeats is 0; expected at least 1"),
        ({"top_level": 4}, "top_level is 4; expected at least 5"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BiFPN(**{"channels": 8, "repeats": 1} | options)


@pytest.mark.parametrize("given", [[(16, 16), (8, 8), (8, 8), (8, 8)], [(16, 16), (8, 8), (4, 4)]])
def test_maps_of_other_strides_are_refused(given):
    with pytest.raises(ValueError, match="strides 4, 8, 16, 32, .* got maps of 16x16, 8x8.*output_stride=32"):
        sizes(given)
