"""HRNet: its transitions, its exchange of maps, what new blocks start from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from se_jax.models.encoders.hrnet import ExchangeModule, HRNet
from se_jax.models.layers import resize

SMALLEST = {"width": 2, "layer1_blocks": 1, "layer1_width": 2, "modules": (1, 1, 1), "blocks": 1}


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_transition_of_the_first_branch_only_where_channels_change():
    for layer1_width, there in ((2, False), (3, True)):
        params = shapes(HRNet(**SMALLEST | {"width": 8, "layer1_width": layer1_width}))["params"]
        assert ("transition1_0" in params) == there
        assert {"transition1_1", "transition2_2", "transition3_3"} <= params.keys()
        assert not params.keys() & {"transition2_0", "transition2_1", "transition3_0"}


def test_normalisations_of_new_blocks_have_weight_one():
    """Unlike ResNet's, no residual branch starts at zero."""
    model = ExchangeModule(2, 1)
    maps = (jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 1, 1, 4)))
    for path, leaf in jax.tree.leaves_with_path(jax.jit(model.init)(jax.random.key(0), maps)["params"]):
        assert path[-1].key != "scale" or leaf.all()


def test_odd_maps_are_resized_twice():
    """Up by 2, then to the finer map's size: along the odd axis not the same as one resize."""
    module = ExchangeModule(3, 1)
    maps = tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(1, 5, 4, 3), (1, 3, 2, 6)]))
    variables = jax.eval_shape(module.init, jax.random.key(0), maps)
    # no residual branch and no exchange, but for the first channels of the coarser map
    silent = jax.tree.map_with_path(
        lambda p, leaf: jnp.full(leaf.shape, p[-1].key in ("scale", "var"), float), variables
    )
    silent["params"]["fuse_layers_0_1"]["conv"]["kernel"] = jnp.eye(6, 3)[None, None]
    finest = jax.jit(module.apply)(silent, maps)[0]
    coarse = nn.relu(maps[1])[..., :3] / np.sqrt(1 + 1e-5)
    twice = resize(resize(coarse, (6, 4)), (5, 4))
    np.testing.assert_allclose(finest, nn.relu(maps[0]) + twice, rtol=1e-5, atol=1e-5)
    assert jnp.abs(twice - resize(coarse, (5, 4))).max() > 1e-2
