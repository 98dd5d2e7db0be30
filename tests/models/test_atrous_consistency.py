"""Atrous consistency (as DeepLab2 tests it): a network that dilates where another strides has the other's features.

With the same weights, the map at the finer output stride, every second (fourth) pixel of it taken, equals the map at
the coarser one. Strided away or not, a convolution's output 2i reads the same inputs 2i - d, 2i, 2i + d; what follows
must read pixels of the dense map that lie two apart, so its dilation doubles, while the layer that lost its stride
still reads a dense map and keeps the dilation that it had. So a stage without its stride has the stage's dilation
from its second block on and half of it in the first: mmsegmentation's contract_dilation. Borders agree at every size,
odd or even, because the padding is symmetric and explicit: i + 1 >= ceil(n / 2) just where 2i + 2 >= n. With "SAME"
padding, which at even sizes starts one pixel further, they would not. All of it holds in evaluation: in training,
BatchNorm's statistics are those of a denser map.

Holds: ResNet of bottlenecks, V1b and V1c, at 8, 16 and 32, all maps; with a multi-grid whose dilations are those of
the coarser network times the stride that was lost.

Does not hold, since the reference does otherwise (and its checkpoints expect that):
- ResNet-18, 34: the second convolution of a basic block has dilation 1 whatever the stage's is.
- V1d: at stride 1 its shortcut has nothing to average.
- multi-grid (1, 2, 4): it replaces the dilations of the last stage at every output stride instead of multiplying them.
- MobileNetV2: the first block of a dilated layer has the whole dilation, the others have none. Its first two maps,
  before any dilated layer, are the same at both output strides; the last two agree in the network below, which
  dilates block by block as above.
"""

import jax
import numpy as np
import pytest

from se_jax.models.encoders.mobilenetv2 import LAYERS, STRIDES, MobileNetV2
from se_jax.models.encoders.resnet import ResidualBlock, ResNet
from tests import tiny

SIZE = (100, 64)  # maps of 25, 13, 7, 4 rows, of which most are odd, by 16, 8, 4, 2 columns, which are even


class ConsistentMobileNetV2(MobileNetV2):
    """MobileNetV2 of which every block has the dilation that makes up for the strides lost so far."""

    def _geometry(self):
        stride, dilation, layers = 2, 1, []
        for strides, (_, _, blocks) in zip(STRIDES[32], LAYERS, strict=True):
            if stride * strides > self.output_stride:
                first, after = (1, dilation), dilation * strides
            else:
                first, after = (strides, dilation), dilation
                stride *= strides
            dilation = after
            layers.append([first] + [(1, dilation)] * (blocks - 1))
        return layers


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (1, *SIZE, 3))


@pytest.fixture(scope="module")
def resnet_maps(images):
    """(output stride, multi-grid) -> maps of a narrow ResNet-50, the same weights for all."""
    variables = tiny.init(ResNet(50, width=4))
    made = {}

    def maps(output_stride, multi_grid=None):
        key = output_stride, multi_grid
        if key not in made:
            model = ResNet(50, width=4, output_stride=output_stride, multi_grid=multi_grid)
            made[key] = jax.jit(model.apply)(variables, images)
        return made[key]

    return maps


@pytest.fixture(scope="module")
def mobilenet_maps(images):
    """Class, output stride -> maps of a narrow MobileNetV2, the same weights for all."""
    variables = tiny.init(MobileNetV2(0.25))
    return lambda cls, output_stride: jax.jit(cls(0.25, output_stride).apply)(variables, images)


def deviation(fine, coarse) -> float:
    """Largest difference between a coarse map and the fine one at its pixels, in the coarse one's std."""
    steps = [-(-rows // fewer) for rows, fewer in zip(fine.shape[1:3], coarse.shape[1:3], strict=True)]
    fine, coarse = np.asarray(fine)[:, :: steps[0], :: steps[1]], np.asarray(coarse)
    assert steps[0] == steps[1]
    assert fine.shape == coarse.shape
    return np.abs(fine - coarse).max() / coarse.std()


def assert_consistent(fine, coarse):
    assert all(deviation(*pair) < 1e-4 for pair in zip(fine, coarse, strict=True))


@pytest.mark.parametrize(("fine", "coarse"), [(8, 16), (8, 32), (16, 32)])
def test_resnet(resnet_maps, fine, coarse):
    assert resnet_maps(8)[3].shape[1:3] == (13, 8)
    assert resnet_maps(32)[3].shape[1:3] == (4, 2)
    assert_consistent(resnet_maps(fine), resnet_maps(coarse))


def test_resnet_with_the_multi_grid_of_its_stride(resnet_maps):
    assert_consistent(resnet_maps(16, (1, 4, 8)), resnet_maps(32, (1, 2, 4)))


@pytest.mark.parametrize("dilations", [(2, 2, 2), (1, 2, 4)])
def test_wrong_dilations_of_a_resnet_break_it(resnet_maps, dilations):
    """Not contracted; the reference's multi-grid beside the same at the coarser stride."""
    coarse = resnet_maps(32, dilations if dilations == (1, 2, 4) else None)
    fine = resnet_maps(16, dilations)
    assert_consistent(fine[:3], coarse[:3])
    assert deviation(fine[3], coarse[3]) > 0.1


@pytest.mark.parametrize(
    ("bottleneck", "average_shortcut", "consistent"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_block_that_loses_its_stride(images, bottleneck, average_shortcut, consistent):
    """V1d's shortcut, and the second convolution of a basic block, do not make up for the stride."""
    strided = ResidualBlock(4, bottleneck, strides=2, average_shortcut=average_shortcut)
    variables = tiny.init(strided)
    coarse = jax.jit(strided.apply)(variables, images)
    fine = jax.jit(strided.clone(strides=1).apply)(variables, images)
    assert (deviation(fine, coarse) < 1e-4) == consistent


def test_mobilenetv2(mobilenet_maps):
    coarse, fine = mobilenet_maps(MobileNetV2, 32), mobilenet_maps(ConsistentMobileNetV2, 8)
    assert [leaf.shape[1] for leaf in fine] == [25, 13, 13, 13]
    assert_consistent(fine, coarse)
    reference = mobilenet_maps(MobileNetV2, 8)
    assert_consistent(reference[:2], coarse[:2])
    assert min(deviation(reference[i], coarse[i]) for i in (2, 3)) > 0.1


def test_consistent_mobilenetv2_strides_alike():
    """The network above changes dilations, and nothing at the classification strides."""
    assert ConsistentMobileNetV2(output_stride=32)._geometry() == MobileNetV2(output_stride=32)._geometry()
    strides = [[stride for stride, _ in layer] for layer in ConsistentMobileNetV2(output_stride=8)._geometry()]
    assert strides == [[stride for stride, _ in layer] for layer in MobileNetV2(output_stride=8)._geometry()]
