"""Networks of torchvision and timm with random weights, whose maps lie in front of the output norms of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import import_weights
from tests.conftest import assert_close_to_reference


def torch_network(make):
    """A torch network with weights away from their neutral start, and its state dict as numpy arrays."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            vector = parameter.squeeze().ndim == 1
            spread = 1.0 if name.endswith("table") else 0.3 if vector else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn_like(parameter) * spread + (1 if "norm" in name and "weight" in name else 0))
    return network, {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def assert_same_before_the_output_norms(model, epsilon, state, layout, x, maps):
    """Our maps of x [b, 3, h, w] are theirs, [b, h, w, c], behind LayerNorms of weight one and bias zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    norms = [(f"norm{stage}", c) for stage, c in enumerate(model.channels)]
    state |= {f"{name}.weight": np.ones(c) for name, c in norms} | {f"{name}.bias": np.zeros(c) for name, c in norms}
    ours = jax.jit(model.apply)(import_weights(model, state, shapes, layout), x.transpose(0, 2, 3, 1))
    for actual, theirs in zip(ours, maps, strict=True):
        mean, var = theirs.mean(-1, keepdims=True), theirs.var(-1, keepdims=True)
        assert_close_to_reference(actual, (theirs - mean) / np.sqrt(var + epsilon))
