"""ConvNeXt: what the reference's outputs do not show."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax.models.attention import DropPath
from se_jax.models.encoders import ConvNeXt
from se_jax.models.encoders.convnext import VARIANTS, ConvNeXtBlock

TINY = {"widths": (4, 8, 12, 16), "depths": (2, 1, 2, 1)}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_drop_path_rises_over_all_blocks(accelerator_form):
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


def test_new_weights_are_drawn_as_the_reference_draws_them(accelerator_form):
    params = jax.jit(ConvNeXtBlock(drop_path=0.0).init)(jax.random.key(0), jnp.zeros((1, 7, 7, 64)))["params"]
    assert (params["gamma"] == 1).all()  # a millionth in classification
    for module in (params["depthwise_conv"], params["pointwise_conv1"], params["pointwise_conv2"]):
        np.testing.assert_allclose(jnp.std(module["kernel"]), 0.02, rtol=0.05)
        assert not jnp.any(module["bias"])
