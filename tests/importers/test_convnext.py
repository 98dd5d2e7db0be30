"""ConvNeXt's layouts, both ways, by the recorded names of each; and the torch networks themselves where installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from se_jax.importers import export_weights, import_weights
from se_jax.importers.convert import match
from se_jax.models import layers
from se_jax.models.encoders import ConvNeXt
from se_jax.models.encoders.convnext import EPSILON
from tests.conftest import assert_close_to_reference
from tests.importers import recorded

LAYOUTS = ("mmseg", "timm", "official", "torchvision")
NORMS = {f"norm{stage}.{name}" for stage in range(4) for name in ("weight", "bias")}
SIZES = {"widths": (16, 32, 64, 128), "depths": (2, 2, 3, 2)}
TINY = {"widths": (8, 12, 16, 20), "depths": (1, 2, 1, 1)}


@pytest.fixture
def xla_operators(monkeypatch):
    """The convolutions of other devices: those of a CPU, written out tap by tap, take longer to compile."""
    monkeypatch.setattr(layers, "on_cpu", lambda: False)


@pytest.fixture(scope="module")
def encoder():
    """An encoder and variables that no import can have made: nan everywhere."""
    model = ConvNeXt(**SIZES)
    return model, jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), recorded.template(model))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_goes_in_and_comes_out(encoder, layout):
    model, variables = encoder
    state = recorded.tensors(f"convnext_{layout}")
    result = match(model, state, variables)
    assert result.layout == layout
    assert set(result.skipped) == {name for name in state if name.split(".")[0] in ("norm", "head", "classifier")}
    filled = {"/".join(key) for key, leaf in flatten_dict(result.variables).items() if not np.isnan(leaf).any()}
    assert {"/".join(key) for key in flatten_dict(variables)} == filled | set(result.kept)
    norms = {f"params/norm{stage}/{name}" for stage in range(4) for name in ("scale", "bias")}
    assert set(result.kept) == (set() if layout == "mmseg" else norms)
    exported = export_weights(model, result.variables, layout)
    assert set(exported) == (set(state) - set(result.skipped)) | NORMS
    for name in set(exported) - (NORMS - set(state)):
        np.testing.assert_array_equal(exported[name], state[name], err_msg=name)


def test_layouts_agree_on_one_network(encoder):
    """What one layout wrote, another reads as the same network."""
    model, variables = encoder
    original = import_weights(model, recorded.tensors("convnext_mmseg"), variables)
    for layout in LAYOUTS:
        again = import_weights(model, export_weights(model, original, layout), variables)
        jax.tree.map(np.testing.assert_array_equal, again, original)


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


def torch_network(make):
    """A torch network with weights away from their neutral start, and its state dict as numpy arrays."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            spread = 0.3 if parameter.squeeze().ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn_like(parameter) * spread + (1 if "norm" in name and "weight" in name else 0))
    return network, {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def assert_same_before_the_output_norms(state, layout, x, maps):
    """Our maps are theirs [b, c, h, w] behind LayerNorms of weight one and bias zero."""
    model = ConvNeXt(**TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    norms = [(f"norm{stage}", c) for stage, c in enumerate(model.channels)]
    state |= {f"{name}.weight": np.ones(c) for name, c in norms} | {f"{name}.bias": np.zeros(c) for name, c in norms}
    ours = jax.jit(model.apply)(import_weights(model, state, shapes, layout), x.transpose(0, 2, 3, 1))
    for actual, theirs in zip(ours, maps, strict=True):
        mean, var = theirs.mean(1, keepdims=True), theirs.var(1, keepdims=True)
        assert_close_to_reference(actual, ((theirs - mean) / np.sqrt(var + EPSILON)).transpose(0, 2, 3, 1))


def test_same_maps_as_timm(xla_operators):
    torch = pytest.importorskip("torch")
    convnext = pytest.importorskip("timm.models.convnext")
    network, state = torch_network(lambda: convnext.ConvNeXt(dims=TINY["widths"], depths=TINY["depths"], num_classes=3))
    x = np.random.default_rng(0).normal(size=(2, 3, 97, 65)).astype(np.float32)
    with torch.no_grad():
        maps = network.forward_intermediates(torch.from_numpy(x), intermediates_only=True)
    assert_same_before_the_output_norms(state, "timm", x, [m.numpy() for m in maps])


def test_same_maps_as_torchvision(xla_operators):
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
                maps.append(y.numpy())
    assert_same_before_the_output_norms(state, "torchvision", x, maps)
