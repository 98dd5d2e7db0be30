"""ResNet's import tables of timm and torchvision, both ways, and those libraries' networks as witnesses."""

import jax
import pytest

from se_jax.importers import import_weights
from se_jax.importers.tables import tables_of
from se_jax.models import ResNet
from tests.conftest import assert_close_to_reference
from tests.importers import recorded
from tests.importers.recorded import template


def test_every_tensor_of_timms_goes_in_and_comes_out():
    """Names and shapes of timm's resnet18d."""
    tensors = recorded.tensors("resnet_timm")
    skipped = {name for name in tensors if "num_batches_tracked" in name or name.startswith("fc.")}
    recorded.assert_there_and_back(ResNet(18, "v1d", output_stride=32), tensors, "timm", skipped)


def test_torchvision_has_v1b_alone():
    assert list(tables_of(ResNet(50, "v1b"))) == ["mmseg", "torchvision", "timm", "detectron2", "smp"]
    assert list(tables_of(ResNet(50, "v1c"))) == ["mmseg", "timm"]


@pytest.mark.parametrize(
    ("library", "name", "options"),
    [
        ("timm", "resnet50c", {"depth": 50, "variant": "v1c"}),
        ("timm", "resnet18d", {"depth": 18, "variant": "v1d"}),
        ("torchvision", "resnet18", {"depth": 18, "variant": "v1b"}),
    ],
)
def test_equals_published_networks(library, name, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-bench.txt)")
    module = pytest.importorskip(library, reason=f"{library} is not installed (requirements-bench.txt)")
    network = (module.create_model if library == "timm" else module.models.get_model)(name).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if key.endswith("running_var") or (tensor.ndim == 1 and key.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
        images = torch.randn(1, 3, 97, 64, generator=generator)
        x, expected = network.maxpool(getattr(network, "act1", torch.relu)(network.bn1(network.conv1(images)))), []
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)
            expected.append(x)
    encoder = ResNet(**options, output_stride=32)
    tensors = {key: tensor.numpy() for key, tensor in network.state_dict().items()}
    variables = import_weights(encoder, tensors, template(encoder), library)
    maps = jax.jit(encoder.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    for actual, reference in zip(maps, expected, strict=True):
        assert_close_to_reference(actual, reference.numpy().transpose(0, 2, 3, 1))
