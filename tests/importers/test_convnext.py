"""ConvNeXt of the reference's classifiers; and the torch networks themselves where installed."""

import jax
import numpy as np
import pytest

from se_jax.importers.convert import match
from se_jax.models.encoders import ConvNeXt
from se_jax.models.encoders.convnext import EPSILON
from tests.importers import recorded
from tests.importers.witness import assert_same_before_the_output_norms, torch_network

NORMS = {f"norm{stage}.{name}" for stage in range(4) for name in ("weight", "bias")}
SIZES = {"widths": (16, 32, 64, 128), "depths": (2, 2, 3, 2)}
TINY = {"widths": (8, 12, 16, 20), "depths": (1, 2, 1, 1)}


@pytest.fixture(scope="module")
def encoder():
    """An encoder and variables that no import can have made: nan everywhere."""
    model = ConvNeXt(**SIZES)
    return model, jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), recorded.template(model))


def test_classifiers_of_the_reference_have_the_last_output_norm(encoder):
    """mmpretrain's ImageNet checkpoints, which the published segmentation networks start from."""
    model, variables = encoder
    state = {
        name: tensor
        for name, tensor in recorded.tensors("convnext_mmseg").items()
        if name not in NORMS or "norm3" in name
    }
    result = match(model, state | {"head.fc.weight": np.zeros((3, 128))}, variables)
    assert set(result.kept) == {f"params/norm{stage}/{name}" for stage in range(3) for name in ("scale", "bias")}
    np.testing.assert_array_equal(result.variables["params"]["norm3"]["scale"], state["norm3.weight"])


def test_same_maps_as_timm(accelerator_form):
    torch = pytest.importorskip("torch")
    convnext = pytest.importorskip("timm.models.convnext")
    network, state = torch_network(lambda: convnext.ConvNeXt(dims=TINY["widths"], depths=TINY["depths"], num_classes=3))
    x = np.random.default_rng(0).normal(size=(2, 3, 97, 65)).astype(np.float32)
    with torch.no_grad():
        maps = network.forward_intermediates(torch.from_numpy(x), intermediates_only=True)
    assert_same_before_the_output_norms(
        ConvNeXt(**TINY), EPSILON, state, "timm", x, [m.permute(0, 2, 3, 1).numpy() for m in maps]
    )


def test_same_maps_as_torchvision(accelerator_form):
    torch = pytest.importorskip("torch")
    convnext = pytest.importorskip("torchvision.models.convnext")
    widths = (*TINY["widths"], None)
    blocks = [convnext.CNBlockConfig(widths[i], widths[i + 1], TINY["depths"][i]) for i in range(4)]
    network, state = torch_network(lambda: convnext.ConvNeXt(blocks, num_classes=3))
    x = np.random.default_rng(0).normal(size=(1, 3, 66, 95)).astype(np.float32)
    maps, y = [], torch.from_numpy(x)
    with torch.no_grad():
        for index, layer in enumerate(network.features):
            y = layer(y)
            if index % 2:
                maps.append(y.permute(0, 2, 3, 1).numpy())
    assert_same_before_the_output_norms(ConvNeXt(**TINY), EPSILON, state, "torchvision", x, maps)
