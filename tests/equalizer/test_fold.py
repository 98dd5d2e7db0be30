"""Folding is exact: the folded network is the explicit one, borders included, at no cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.equalizer.fold import can_fold, fold, fold_site, fold_weights
from se_jax.equalizer.fusion import Equalizer, FusionConv
from se_jax.models import ASPPHead, FCNHead, PSPHead, SegformerHead, SepASPPHead, UPerHead, VWFormerHead
from se_jax.models.layers import Conv
from se_jax.models.platforms import compiler_options
from se_jax.models.segmenter import normalize
from tests import tiny

WIDE_HEADS = {
    "aspp": ASPPHead(19),
    "psp": PSPHead(19),
    "segformer": SegformerHead(19),
    "sep_aspp": SepASPPHead(19),
    "uper": UPerHead(19),
    "vwformer": VWFormerHead(19),
    "fcn": FCNHead(19, channels=720, num_convs=1, kernel_size=1, concat_input=False, resize_concat=True),
}


@pytest.mark.parametrize("head", [head for head in tiny.HEADS if head != "eseg"])  # whose sites have no convolution
def test_folded_network_equals_explicit_network(head):
    """With statistics of each channel, of which those of a whole branch are a special case."""
    explicit, side = tiny.network(head, "explicit"), tiny.sides(head)[0]
    images = normalize(jnp.asarray(tiny.images(size=side)))
    variables = tiny.init(explicit, side)
    folded_variables = fold(variables)
    assert "equalizer" not in folded_variables

    def run(mode, variables):
        return tiny.result(jax.jit(explicit.with_equalizer(mode=mode).apply)(variables, images))

    expected = run("explicit", variables)
    assert jnp.abs(run("folded", folded_variables) - expected).max() <= 2e-5 * expected.std()
    # without the statistics, or where all of them went into other parameters with the initial ones
    plain_variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    plain = run("none", plain_variables if head == "mask2former" else folded_variables)
    assert jnp.abs(plain - expected).max() > 1e-2 * expected.std(), "the shift must matter, or nothing is proved"


@settings(max_examples=12, deadline=None)
@given(dilation=st.sampled_from([1, 2, 5, 12]), separable=st.booleans(), seed=st.integers(0, 2**31))
def test_fold_is_exact_at_every_dilation(dilation, separable, seed):
    """A dilated convolution behind a site, whose outer taps fall outside almost everywhere."""
    rng = np.random.default_rng(seed)
    channels = 6
    x = jnp.asarray(rng.normal(0.4, 1, (1, 9, 14, channels)), jnp.float32)
    mean, std = (
        jnp.asarray(values, jnp.float32) for values in (rng.normal(size=channels), rng.uniform(0.2, 2, channels))
    )
    groups = channels if separable else 1
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels // groups, channels)), jnp.float32)
    conv = Conv(channels, 3, dilation=dilation, groups=groups)
    expected = conv.apply({"params": {"kernel": kernel}}, (x - mean) / std)

    parameters = fold_site(kernel, {"0_only": {"mean": mean, "std": std}})
    folded = conv.clone(tap_bias=True).apply({"params": parameters}, x)
    assert jnp.abs(folded - expected).max() <= 1e-5 * expected.std()


def test_constant_bias_would_be_wrong_at_the_border():
    model = FusionConv("site", 4, equalizer=Equalizer("explicit"))
    x = jnp.asarray(np.random.default_rng(0).normal(0.4, 0.6, (1, 9, 9, 8)), jnp.float32)
    variables = model.init(jax.random.key(0), {"x": x}, (9, 9))
    statistics = {"mean": jnp.full(8, 0.4), "std": jnp.full(8, 0.6)}
    variables = {**variables, "equalizer": {"site": {"0_x": statistics}}}
    expected = model.apply(variables, {"x": x}, (9, 9))
    folded = fold(variables)
    conv = folded["params"]["block"]["conv"]
    # all of it at the central tap, which is always inside: a bias that is the same everywhere
    conv["tap_bias"] = jnp.zeros_like(conv["tap_bias"]).at[1, 1].set(conv["tap_bias"].sum((0, 1)))
    wrong = model.clone(equalizer=Equalizer("folded")).apply(folded, {"x": x}, (9, 9))
    error = jnp.abs(wrong - expected).max((0, 3))
    assert error[1:-1, 1:-1].max() < 1e-5
    assert error.max() > 0.05


@pytest.mark.parametrize("head", WIDE_HEADS)
def test_folded_head_costs_what_the_plain_one_costs(head):
    """At the published channel counts; a head alone, so the encoder does not dilute the difference."""
    strides = (4, 8, 16, 32) if head == "uper" else (4, 8, 8, 8)
    channels = (48, 96, 192, 384) if head == "fcn" else (256, 512, 1024, 2048)
    size = 256
    features = tuple(
        jax.ShapeDtypeStruct((2, size // stride, size // stride, width), jnp.float32)
        for stride, width in zip(strides, channels, strict=True)
    )

    def flops(mode):
        model = WIDE_HEADS[head].clone(equalizer=Equalizer(mode))
        variables = jax.eval_shape(model.init, jax.random.key(0), features)
        lowered = jax.jit(model.apply, compiler_options=compiler_options()).lower(variables, features)
        return lowered.compile().cost_analysis()["flops"]

    plain = flops("none")
    assert abs(flops("folded") / plain - 1) <= 0.002


def test_a_sum_is_refused_with_its_name():
    variables = tiny.init(tiny.network("uper", "explicit", sites=("ppm", "topdown_1")))
    assert not can_fold(variables)
    with pytest.raises(ValueError, match="'topdown_1'.*cannot be folded.*explicit"):
        fold(variables)
    assert can_fold(tiny.init(tiny.network("uper", "explicit")))


def test_nothing_to_fold_is_refused():
    with pytest.raises(ValueError, match="no equalizer statistics"):
        fold(tiny.init(tiny.network("psp")))


def test_without_learnt_weights_there_are_none_to_fold():
    variables = tiny.init(tiny.network("uper"))
    assert jax.tree.structure(fold_weights(variables)) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, fold_weights(variables), variables)


def test_fold_leaves_its_input_alone():
    variables = tiny.init(tiny.network("psp", "explicit"))
    before = jax.tree.map(np.array, variables)
    fold(variables)
    assert jax.tree.structure(before) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, before, variables)
