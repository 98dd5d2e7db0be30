"""ESeg: its sizes, the reach of P9, its fusion sites, what is refused."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import counts
from se_jax import parallel
from se_jax.config import options, recipes
from se_jax.equalizer import calibrate
from se_jax.equalizer.fold import can_fold, fold, fold_weights
from se_jax.equalizer.sites import check_sites, find_sites
from se_jax.models import EfficientNet, ESegHead, Segmenter, Xception, build
from se_jax.models.layers import Conv, avg_pool_ceil
from se_jax.models.segmenter import normalize
from tests import tiny

# million parameters and GMAC at 1024x2048 of a count that is independent of this code, encoder and whole; a remembered
# table of the paper has 6.9 / 34.5, 20.0 / 112 and 70.5 / 343
SIZES = {"s": (6.101024, 6.82, 34.2), "m": (16.742216, 19.88, 111.2), "l": (62.14344, 70.24, 341.7)}
CITYSCAPES = counts.image(1024, 2048)
DEEPLAB_GMAC = 418.4  # DeepLabv3+, Xception-65 of output stride 16, 1025x2049; its model zoo says 418.64


def network(size, **decoder):
    config = recipes.load(f"cityscapes_eseg:{size}")
    config.model.decoder.update(decoder)
    return build(config.model)


def maps(size=(1024, 2048), channels=(8, 8, 8, 8), batch=1):
    """Shapes of an encoder's maps of images of that size."""
    sizes = ([-(-side // stride) for side in size] for stride in (4, 8, 16, 32))
    return [jax.ShapeDtypeStruct((batch, *s, c), jnp.float32) for s, c in zip(sizes, channels, strict=True)]


class Pooled(nn.Module):
    """An encoder that compiles fast: images averaged over 4x4 to 32x32 pixels, and a matrix each."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return tuple(Conv(8, 1, name=f"p{stride}")(avg_pool_ceil(x, stride)) for stride in (4, 8, 16, 32))


# ---- Sizes ----


@pytest.fixture(scope="module", params=SIZES)
def sized(request):
    """(its row of SIZES, network, GMAC) for S, M and L; sums not learnt, as the independent count leaves these out."""
    model = network(request.param, fusion="sum")
    return SIZES[request.param], model, counts.multiply_adds(model, CITYSCAPES) / 1e9


def test_sizes_are_those_of_the_independent_count(sized):
    (encoder, millions, expected), model, gmac = sized
    head = counts.parameters(model.decoder, maps(channels=model.encoder.channels)) / 1e6
    assert round(encoder + head, 2) == millions
    assert round(gmac, 1) == expected


def test_levels_above_p5_cost_next_to_nothing_but_parameters():
    head, inputs = network("s", fusion="sum").decoder, maps(channels=EfficientNet("b1").channels)
    short = head.clone(top_level=5)
    assert round(6.101024 + counts.parameters(short, inputs) / 1e6, 2) == 6.46
    extra = (counts.multiply_adds(head, inputs) - counts.multiply_adds(short, inputs)) / 1e9
    assert round(extra / 34.0, 3) == 0.006


def test_learnt_weights_add_one_a_channel_of_every_edge():
    head = ESegHead(2, channels=8, repeats=2)
    learnt, fast, plain = (
        counts.parameters(head.clone(fusion=fusion), maps()) for fusion in ("channel_softmax", "fast", "sum")
    )
    edges = 2 * 34 + 8
    assert (learnt - plain, fast - plain) == (8 * edges, edges)


def test_a_fraction_of_deeplabs_multiply_adds(sized):
    assert round(sized[2] / DEEPLAB_GMAC, 3) in (0.082, 0.266, 0.817)


def test_deeplabs_multiply_adds():
    """The encoder counted, the decoder by hand: ASPP of 256 at 65x129, two separable convolutions at 257x513."""
    pyramid = 2048 * 256 + 3 * (9 + 256) * 2048 + 5 * 256 * 256
    decoder = 256 * 48 + (9 + 256) * 304 + (9 + 256) * 256 + 256 * 19
    encoder = counts.multiply_adds(Xception("65", output_stride=16), counts.image(1025, 2049))
    assert round((encoder + 65 * 129 * pyramid + 257 * 513 * decoder) / 1e9, 1) == DEEPLAB_GMAC


def test_lite_is_fused_with_relu():
    model = network("lite")
    assert model.encoder.fused and model.decoder.activation == "relu"
    wider = recipes.load("cityscapes_eseg:lite").model
    wider.encoder.update(width=0.75, depth=1.0)
    assert build(wider).encoder.channels != model.encoder.channels


# ---- The reach of the coarsest level ----


@pytest.mark.parametrize("top_level", [5, 9])
def test_every_output_sees_the_whole_crop_where_p9_is_one_pixel(top_level):
    """The first output's gradient, summed over images, in 16x16 blocks of a crop of 512x512.

    Without squeeze and excitation, which see everything by themselves; and of few blocks, so that P5 does not.
    """
    model = Segmenter(
        EfficientNet(width=0.1, depth=0.1, fused=True),
        ESegHead(2, channels=8, repeats=1, top_level=top_level, activation="relu"),
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), counts.image(64, 64))
    rng = np.random.default_rng(0)
    spread = {"kernel": (0, 0.3), "bias": (0.1, 0.1), "mean": (0, 0.1)}
    variables = jax.tree.map_with_path(
        lambda path, leaf: np.float32(rng.normal(*spread.get(path[-1].key, (1, 0)), leaf.shape)), shapes
    )
    images = jnp.asarray(rng.normal(size=(2, 512, 512, 3)), jnp.float32)

    @parallel.jit_once
    def reach(images):
        gradient = jax.grad(lambda images: model.apply(variables, images)["logits"][:, 0, 0].sum())(images)
        return jnp.abs(gradient).sum((0, 3)).reshape(32, 16, 32, 16).sum((1, 3))

    assert (reach(images) > 0).all() == (top_level == 9)


# ---- Fusion sites ----

SITES = ["extra", *(f"topdown_0_{i}" for i in (6, 5, 4, 3, 2)), *(f"bottomup_0_{i}" for i in range(3, 8)), "sum"]


def test_sites_in_running_order_the_last_sum_alone_by_default():
    model = tiny.network("eseg", "explicit")
    assert sites(model) == SITES
    assert sites(model, equalized=True) == ["sum"]
    assert sites(model.with_equalizer(sites=("sum", "topdown_*", "extra")), equalized=True) == [*SITES[:6], "sum"]
    assert len(sites(network("s"))) == 2 + 4 * 14
    assert "extra" not in sites(network("s", top_level=5))


def sites(model, equalized=False):
    """Names of all sites, or of the equalized ones."""
    return [site.name for site in find_sites(model, counts.image(64, 64)) if site.equalized or not equalized]


BRANCHES = {
    "extra": ["p6"],
    "topdown_0_5": ["lateral", "coarser"],
    "bottomup_0_5": ["lateral", "topdown", "finer"],
    "sum": ["p2", "p3", "p4", "p5", "p6"],
}


@pytest.mark.parametrize(("upsample", "equalized"), [("bilinear", BRANCHES), ("nearest", {"sum": BRANCHES["sum"]})])
def test_equalized_branches_have_mean_0_and_std_1(upsample, equalized):
    """Extra levels, a node of either way and the last sum, each calibrated behind those before it."""
    head = ESegHead(2, channels=8, repeats=1, top_level=6, upsample=upsample)
    model = Segmenter(Pooled(), head).with_equalizer(mode="explicit", sites=tuple(reversed(equalized)))
    assert sites(model, equalized=True) == list(equalized)
    variables = parallel.jit_once(model.init)(jax.random.key(0), jnp.zeros((2, 65, 65, 3)))
    batches = [{"image": tiny.images(8, 65)}]
    after, rows = calibrate.calibrate(model, variables, lambda: batches, jit=parallel.jit_once)
    assert {site: [row.branch for row in rows if row.site == site] for site in equalized} == equalized
    for row in rows:
        if row.site == "extra":  # maxima of what a BatchNorm puts out
            assert row.mean > 0.05 and row.std < 0.95
    for row in calibrate.measure(model, after, lambda: batches, jit=parallel.jit_once):
        if row.site in equalized:
            assert abs(row.mean) < 1e-4 and abs(row.std - 1) < 1e-4


@pytest.fixture(scope="module")
def small():
    """(a network of all sites explicit, its variables, images)."""
    model = Segmenter(Pooled(), ESegHead(2, channels=8, repeats=1, top_level=7))
    model = model.with_equalizer(mode="explicit", sites=("*",))
    return model, tiny.init(model), normalize(jnp.asarray(tiny.images()))


@pytest.mark.parametrize("site", ["sum", "topdown_0_6"])
def test_sums_are_not_folded_and_say_why(small, site):
    path = ("decoder", "sum") if site == "sum" else ("decoder", "bifpn", site)
    statistics = small[1]["equalizer"]
    for name in path:
        statistics = statistics[name]
    for name in reversed(path):
        statistics = {name: statistics}
    variables = {**small[1], "equalizer": statistics}
    assert not can_fold(variables)
    reason = "learnt weights.*a sum of one.*activation follows.*equalizer.mode='explicit'"
    with pytest.raises(ValueError, match=f"'{site}'.*{reason}"):
        fold(variables)


def test_folded_weights_give_the_same_logits(small):
    model, variables, images = small
    forward = parallel.jit_once(model.apply)
    expected = forward(variables, images)["logits"]
    folded = fold_weights(variables)
    names = {path[-1].key for path, _ in jax.tree.leaves_with_path(folded["params"])}
    assert "weights" in names and "softmax_weights" not in names
    np.testing.assert_allclose(forward(folded, images)["logits"], expected, rtol=1e-5, atol=1e-5 * expected.std())


# ---- Bad input ----


@pytest.mark.parametrize(
    ("size", "top_level", "works"), [((180, 240), 9, 8), ((256, 256), 9, 8), ((33, 20), 7, 6), ((16, 16), 6, 5)]
)
def test_crops_too_small_for_the_top_level_are_refused_in_training(size, top_level, works):
    head = ESegHead(2, channels=8, repeats=1, top_level=top_level)
    least = 2 ** (top_level - 1) + 1
    with pytest.raises(ValueError, match=f"too small for level P{top_level}.*at least {least} .*top_level={works}"):
        train(head, size)
    train(head.clone(top_level=works), size)
    train(head, (8, least))
    jax.eval_shape(head.init, jax.random.key(0), maps(size))  # but in inference any size goes


def train(head, size):
    jax.eval_shape(lambda x: head.init(jax.random.key(0), x, True), maps(size, batch=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": {"fusion": "attention"}}, "fusion is 'attention'; expected one of sum, fast"),
        (
            {"equalizer": {"sites": "sum,topup_*"}},
            r"equalizer.sites names topup_\*, which decoder 'eseg' does not have",
        ),
    ],
)
def test_what_is_wrong_is_named(change, message):
    config = recipes.load("cityscapes_eseg:s").model
    for part, changed in change.items():
        config[part].update(ConfigDict(changed))
    with pytest.raises(ValueError, match=message):
        model = build(config)
        check_sites(find_sites(model, counts.image(64, 64)), model.decoder.equalizer, "decoder 'eseg'")


def test_an_encoder_of_another_stride_is_refused():
    config = recipes.load("cityscapes_eseg:s").model
    config.encoder = ConfigDict(options.encoder("resnet", depth=10, width=8))
    with pytest.raises(ValueError, match="strides 4, 8, 16, 32.*output_stride=32"):
        jax.eval_shape(build(config).init, jax.random.key(0), counts.image(64, 64))
