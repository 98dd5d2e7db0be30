"""ConvNeXt against the PyTorch reference, and its published sizes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from se_jax.models import layers
from se_jax.models.attention import DropPath
from se_jax.models.encoders import ConvNeXt
from se_jax.models.encoders.convnext import VARIANTS, ConvNeXtBlock
from tests.conftest import assert_close_to_reference

TINY = {"widths": (4, 8, 12, 16), "depths": (2, 1, 2, 1)}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.fixture
def xla_operators(monkeypatch):
    """The convolutions of other devices: those of a CPU, written out tap by tap, take long to trace 36 times."""
    monkeypatch.setattr(layers, "on_cpu", lambda: False)


def assert_equals_the_reference(case, size: int):
    arch = case.meta["kwargs"]["arch"]
    model = ConvNeXt(widths=arch["channels"], depths=arch["depths"])
    variables = import_weights(model, case.group("sd"), shapes(model))
    maps = jax.jit(model.apply)(variables, case[f"in/{size}"].transpose(0, 2, 3, 1))
    for stage, actual in enumerate(maps):
        assert_close_to_reference(actual, case[f"out/{size}/{stage}"].transpose(0, 2, 3, 1))


def test_equals_the_reference_at_an_even_size(golden, xla_operators):
    assert_equals_the_reference(golden("bb_convnext"), 0)


def test_equals_the_reference_at_an_odd_size(golden):
    assert_equals_the_reference(golden("bb_convnext"), 1)


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("tiny", 27.82), ("small", 49.46), ("base", 87.57), ("large", 196.23), ("xlarge", 348.15)],
)
def test_parameter_counts_are_the_published_ones(xla_operators, variant, millions):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(ConvNeXt(variant))))
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_rounded_down(xla_operators, variant):
    model = ConvNeXt(variant)
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 95, 66, 3)))[0])
    sizes = [(23, 16), (11, 8), (5, 4), (2, 2)]
    assert [leaf.shape for leaf in maps] == [(1, *size, c) for size, c in zip(sizes, model.channels, strict=True)]


def test_images_that_leave_the_last_map_empty_are_refused():
    with pytest.raises(ValueError, match="images of 64 x 31; expected at least 32 a side"):
        jax.eval_shape(ConvNeXt().init, jax.random.key(0), jnp.zeros((1, 64, 31, 3)))


def test_drop_path_rises_over_all_blocks(xla_operators):
    rates = []

    def record(next_call, args, kwargs, context):
        if isinstance(context.module, DropPath) and context.method_name == "__call__":
            rates.append(context.module.rate)
        return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes(ConvNeXt(**TINY, drop_path=0.5))
    np.testing.assert_allclose(rates, np.linspace(0, 0.5, 6))
    published = {variant: ConvNeXt(variant).sizes.drop_path for variant in VARIANTS}
    assert published == {"tiny": 0.4, "small": 0.3, "base": 0.4, "large": 0.4, "xlarge": 0.4}


def test_new_weights_are_drawn_as_the_reference_draws_them(xla_operators):
    params = jax.jit(ConvNeXtBlock(drop_path=0.0).init)(jax.random.key(0), jnp.zeros((1, 7, 7, 64)))["params"]
    assert (params["gamma"] == 1).all()  # a millionth in classification
    for module in (params["depthwise_conv"], params["pointwise_conv1"], params["pointwise_conv2"]):
        np.testing.assert_allclose(jnp.std(module["kernel"]), 0.02, rtol=0.05)
        assert not jnp.any(module["bias"])


def test_remat_changes_neither_variables_nor_gradients(xla_operators):
    plain, remat = ConvNeXt(**TINY), ConvNeXt(**TINY, remat=True)
    assert jax.tree.structure(shapes(plain)) == jax.tree.structure(shapes(remat))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes(plain))
    images = rng.normal(size=(2, 33, 32, 3)).astype(np.float32)

    def gradient(model):
        return jax.jit(jax.grad(lambda v: jnp.mean(model.apply(v, images, True)[0] ** 2)))(variables)

    for a, b in zip(jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(remat)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "nano"}, "variant is 'nano'; expected one of tiny, small, base, large, xlarge"),
        ({"widths": (8, 16, 32)}, r"widths is \(8, 16, 32\); expected four positive numbers"),
        ({"depths": (3, 3, 0, 3)}, r"depths is \(3, 3, 0, 3\); expected four positive numbers"),
        ({"drop_path": -0.1}, "drop_path is -0.1; expected a rate from 0 to below 1"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**options)
