"""Whole networks by the names of segmentation_models_pytorch; tests/models/test_golden_heads.py has its numbers."""

import jax
import numpy as np
import pytest

from se_jax.importers import convert
from se_jax.models import FPNHead, LinkNetHead, ResNet, Segmenter, UNetHead
from tests import tiny

STEM_AND_STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize("head", [UNetHead(3, 32), LinkNetHead(3, 4), FPNHead(3, 8, segmentation_channels=32)])
def test_a_whole_checkpoint_is_recognised_and_read_back(head):
    outputs = STEM_AND_STAGES[1:] if isinstance(head, FPNHead) else STEM_AND_STAGES
    model = Segmenter(ResNet(18, "v1b", 32, width=16, outputs=outputs), head)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = tiny.fill(jax.eval_shape(model.init, jax.random.key(0), images))
    tensors = convert.export_weights(model, variables, "smp")
    assert {name.partition(".")[0] for name in tensors} == {"encoder", "decoder", "segmentation_head"}
    found = convert.match(model, tensors, jax.tree.map(np.zeros_like, variables))
    assert found.layout == "smp" and not found.kept and not found.skipped
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
