"""The fusion module, and what theory says of equalizers at its sites."""

import functools
import warnings

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.equalizer.fold import fold, fold_weights
from se_jax.equalizer.fusion import (
    MODES,
    WEIGHTINGS,
    Equalizer,
    Fusion,
    FusionConv,
    branch_name,
    normalize_weights,
    ordered_branches,
)
from se_jax.models.layers import ConvBlock, SeparableConvBlock, resize


def branches(seed=0, channels=(3, 4)):
    rng = np.random.default_rng(seed)
    sizes = [(8, 12), (4, 6), (1, 1), (5, 7)]
    shapes = [(2, *size, width) for size, width in zip(sizes, channels, strict=False)]
    return {f"level{i}": jnp.asarray(rng.normal(i, 1 + i, shape), jnp.float32) for i, shape in enumerate(shapes)}


def statistics(inputs, seed=1):
    rng = np.random.default_rng(seed)
    return {
        f"{i}_{name}": {
            "mean": jnp.asarray(rng.normal(size=x.shape[-1]), jnp.float32),
            "std": jnp.asarray(rng.uniform(0.3, 3, x.shape[-1]), jnp.float32),
        }
        for i, (name, x) in enumerate(inputs.items())
    }


@settings(max_examples=6)
@given(
    seed=st.integers(0, 2**31),
    align_corners=st.booleans(),
    size=st.sampled_from([(8, 12), (16, 24), (9, 7), (3, 4)]),
)
def test_equalizing_before_the_resize_is_the_papers_after_it(seed, align_corners, size):
    inputs = branches(seed, (3, 4, 5, 2))
    collection = statistics(inputs)
    fusion = Fusion(Equalizer("explicit"), align_corners=align_corners)
    fused = fusion.apply({"equalizer": collection}, inputs, size)
    expected = [
        (resize(x, size, align_corners) - constants["mean"]) / constants["std"]
        for x, constants in zip(inputs.values(), collection.values(), strict=True)
    ]
    np.testing.assert_allclose(fused, jnp.concatenate(expected, -1), atol=2e-5)


def test_sum_adds_equalized_branches():
    inputs = branches(channels=(3, 3))
    collection = statistics(inputs)
    fused = Fusion(Equalizer("explicit"), "sum").apply({"equalizer": collection}, inputs, (8, 12))
    parts = Fusion(Equalizer("explicit")).apply({"equalizer": collection}, inputs, (8, 12))
    np.testing.assert_allclose(fused, parts[..., :3] + parts[..., 3:], atol=1e-6)


@pytest.mark.parametrize("operation", WEIGHTINGS)
def test_learnt_weights_are_born_equal_and_sum_to_one(operation):
    inputs = branches(channels=(3, 3, 3))
    fusion = Fusion(operation=operation)
    variables = fusion.init(jax.random.key(0), inputs, (8, 12))
    kind = operation.removeprefix("channel_")
    shape = (3, 3) if operation.startswith("channel") else (3,)
    learnt = variables["params"][f"{kind}_weights"]
    np.testing.assert_array_equal(learnt, np.ones(shape))
    weights = normalize_weights(learnt, kind)
    np.testing.assert_allclose(weights, np.full(shape, 1 / 3), rtol=1e-4)
    np.testing.assert_allclose(weights.sum(0), 1.0 if kind == "softmax" else 3 / (3 + 1e-4), rtol=1e-6)
    mean = sum(resize(x, (8, 12)) for x in inputs.values()) / 3
    np.testing.assert_allclose(fusion.apply(variables, inputs, (8, 12)), mean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("operation", WEIGHTINGS)
def test_weighted_sum_is_its_formula_also_equalized_and_with_folded_weights(operation):
    inputs = branches(channels=(3, 3))
    collection = statistics(inputs)
    fusion = Fusion(Equalizer("explicit"), operation)
    variables = fusion.init(jax.random.key(0), inputs, (8, 12))
    ((name, born),) = variables["params"].items()
    learnt = np.random.default_rng(2).normal(0.3, 1, born.shape).astype(np.float32)
    positive = np.exp(learnt) if "softmax" in name else np.maximum(learnt, 0)
    weights = positive / (positive.sum(0) + (0 if "softmax" in name else 1e-4))
    expected = sum(
        weight * (resize(x, (8, 12)) - constants["mean"]) / constants["std"]
        for weight, x, constants in zip(weights, inputs.values(), collection.values(), strict=True)
    )
    variables = {"params": {name: jnp.asarray(learnt)}, "equalizer": collection}
    fused = fusion.apply(variables, inputs, (8, 12))
    np.testing.assert_allclose(fused, expected, rtol=1e-4, atol=1e-4)
    folded = fold_weights(variables)
    assert folded["params"].keys() == {"weights"} and name in variables["params"]
    np.testing.assert_allclose(fusion.apply(folded, inputs, (8, 12)), fused, rtol=1e-6, atol=1e-6)


def test_identity_equalizes_and_fuses_nothing():
    inputs = branches()
    collection = statistics(inputs)
    maps = Fusion(Equalizer("explicit"), "identity").apply({"equalizer": collection}, inputs)
    assert list(maps) == list(inputs)
    for (name, x), constants in zip(inputs.items(), collection.values(), strict=True):
        np.testing.assert_allclose(maps[name], (x - constants["mean"]) / constants["std"], atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_no_mode_creates_variables(mode):
    """Those of an explicit site exist only once they are measured."""
    assert not Fusion(Equalizer(mode)).init(jax.random.key(0), branches(), (8, 12))


@pytest.mark.parametrize("compiled", [False, True])
def test_an_explicit_site_without_statistics_warns_once_and_equalizes_nothing(compiled):
    name = f"unmeasured{compiled}"  # a site warns once in a process
    inputs = branches()
    plain = FusionConv(name, 2, kernel_size=1)
    explicit = plain.clone(equalizer=Equalizer("explicit"))
    variables = explicit.init(jax.random.key(0), inputs, (8, 12))

    def run(model):
        apply = functools.partial(model.apply, size=(8, 12))
        return (jax.jit(apply) if compiled else apply)(variables, inputs)

    with pytest.warns(UserWarning, match=f"'{name}' has an explicit equalizer without statistics.*se_jax.equalize"):
        equalized = run(explicit)
    np.testing.assert_array_equal(equalized, run(plain))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(explicit)  # traced anew


def test_neither_birth_nor_calibration_warns_of_missing_statistics():
    fusion, inputs = FusionConv("unborn", 2, equalizer=Equalizer("explicit")), branches()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variables = fusion.init(jax.random.key(0), inputs, (8, 12))
        fusion.apply(variables, inputs, (8, 12), mutable=["moments"])


def test_training_cannot_write_statistics():
    """The collection is frozen unless the caller asks: Linen refuses the write."""

    class Careless(Fusion):
        def __call__(self, inputs, size):
            self.put_variable("equalizer", "0_level0", {"mean": 0.0, "std": 1.0})
            return super().__call__(inputs, size)

    inputs = branches()
    variables = {"equalizer": statistics(inputs)}
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        Careless(Equalizer("explicit")).apply(variables, inputs, (8, 12))


def test_sites_off_by_default_are_equalized_when_named():
    assert not Equalizer("explicit").selects("topdown_0", default=False)
    assert Equalizer("explicit", sites=("topdown_0",)).selects("topdown_0", default=False)
    assert not Equalizer("explicit", sites=("topdown_0",)).selects("fpn", default=True)
    assert not Equalizer("none", sites=("fpn",)).selects("fpn", default=True)
    assert Equalizer("explicit", sites=("fpn", "topdown_*")).selects("topdown_0", default=False)
    assert not Equalizer("explicit", sites=("topdown_*",)).selects("fpn", default=True)


@pytest.mark.parametrize("field", ["mode", "statistics"])
def test_unknown_options_are_refused(field):
    with pytest.raises(ValueError, match=f"equalizer.{field} is 'wrong'; expected one of"):
        Equalizer(**{field: "wrong"})


def test_branch_order_survives_sorting():
    site = {f"{i}_b": i for i in reversed(range(12))}
    assert [index for _, index in ordered_branches(site)] == list(range(12))
    assert branch_name("3_image_pool") == "image_pool"


def apply_in_training(block, x):
    variables = block.init(jax.random.key(0), x)
    return block.apply(variables, x, train=True)


def test_separable_convolution_cancels_a_branch_scale():
    """Negative control: depthwise convolution, then BatchNorm a channel, so at site 'c1' scale is inert."""
    x = jax.random.normal(jax.random.key(1), (4, 12, 12, 8))
    scaled = x.at[..., :4].multiply(3.0)
    error = jnp.abs(
        apply_in_training(SeparableConvBlock(6), scaled) - apply_in_training(SeparableConvBlock(6), x)
    ).max()
    assert error < 1e-4
    mixed = jnp.abs(apply_in_training(ConvBlock(6), scaled) - apply_in_training(ConvBlock(6), x)).max()
    assert mixed > 0.1, "a plain convolution mixes branches before it normalises, so there the scale counts"


def test_broadcast_of_the_image_pool_keeps_the_variance():
    """Negative control: ASPPHead upsamples only from 1x1, which repeats values."""
    x = jax.random.normal(jax.random.key(0), (64, 1, 1, 16))
    np.testing.assert_allclose(resize(x, (9, 9)).std(), x.std(), rtol=1e-5)
    y = jax.random.normal(jax.random.key(0), (64, 2, 2, 16))
    assert resize(y, (9, 9)).std() < 0.95 * y.std()


def test_the_mean_is_inert_behind_batch_norm():
    """A 1x1 convolution and BatchNorm take out any constant: an equalizer is one scale a branch there."""
    inputs = branches(channels=(3, 4))
    model = FusionConv("site", 5, kernel_size=1, equalizer=Equalizer("explicit"))
    variables = model.init(jax.random.key(0), inputs, (8, 12))
    collection = statistics(inputs)
    without = {key: {**values, "mean": jnp.zeros_like(values["mean"])} for key, values in collection.items()}
    outputs = [
        model.apply({**variables, "equalizer": {"site": stats}}, inputs, (8, 12), train=True)
        for stats in (collection, without)
    ]
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_explicit_and_folded_weights_learn_at_different_rates():
    """Same function, other dynamics: the folded kernel's gradient is std times the explicit one's, branch by branch."""
    inputs = branches(channels=(3, 4))
    target = jax.random.normal(jax.random.key(3), (2, 8, 12, 5))
    explicit = FusionConv("site", 5, kernel_size=1, equalizer=Equalizer("explicit"))
    variables = explicit.init(jax.random.key(0), inputs, (8, 12))
    stds = (0.5, 2.0)
    variables["equalizer"] = {
        "site": {
            f"{i}_{name}": {"mean": jnp.zeros(x.shape[-1]), "std": jnp.full(x.shape[-1], std)}
            for i, ((name, x), std) in enumerate(zip(inputs.items(), stds, strict=True))
        }
    }

    def gradient(model, variables):
        def loss(params):
            return jnp.mean((model.apply({**variables, "params": params}, inputs, (8, 12), train=True) - target) ** 2)

        return jax.grad(loss)(variables["params"])["block"]["conv"]["kernel"]

    of_explicit = gradient(explicit, variables)
    of_folded = gradient(explicit.clone(equalizer=Equalizer("folded")), fold(variables))
    for channels, std in zip((slice(0, 3), slice(3, 7)), stds, strict=True):
        np.testing.assert_allclose(of_folded[:, :, channels], std * of_explicit[:, :, channels], rtol=1e-3, atol=1e-6)
