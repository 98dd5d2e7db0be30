"""Import table of VWFormerHead, both ways.

names/vwformer_*.txt are written down from the authors' source (yan-hao-tian/VW), for which there is no package: its
VWHead (ADE20K) and VWCityHead (Cityscapes), of 64 channels and 5 classes on features of 6, 8, 10 and 12.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import export_weights, import_weights
from se_jax.models import ConvNeXt, Segmenter
from se_jax.models.decoders import VWFormerHead
from tests.importers import recorded

FEATURES = tuple(jnp.zeros((1, 64 // s, 64 // s, c)) for s, c in ((4, 6), (8, 8), (16, 10), (32, 12)))


def head_and_template(variant, **options):
    head = VWFormerHead(5, variant=variant, channels=64, **options)
    return head, jax.eval_shape(head.init, jax.random.key(0), FEATURES)


@pytest.mark.parametrize("variant", ["ade", "cityscapes"])
def test_there_and_back(variant):
    head, template = head_and_template(variant)
    tensors = recorded.tensors(f"vwformer_{variant}")
    variables = import_weights(head, tensors, template)
    assert jax.tree.structure(variables) == jax.tree.structure(template)
    exported = export_weights(head, variables)
    assert exported.keys() == tensors.keys()
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)


def test_a_whole_checkpoint_has_mmsegmentations_names():
    encoder = ConvNeXt(widths=(6, 8, 10, 12), depths=(1, 1, 1, 1))
    model = Segmenter(encoder, head_and_template("ade")[0])
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    blank = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), template)
    tensors = {name: t for name, t in export_weights(model, blank).items() if name.startswith("backbone.")}
    tensors |= {f"decode_head.{name}": tensor for name, tensor in recorded.tensors("vwformer_ade").items()}
    tensors["decode_head.ds.0.bn.num_batches_tracked"] = np.int64(3)
    variables = import_weights(model, tensors, template)
    theta = variables["params"]["decoder"]["attn_1"]["theta"]["kernel"][0, 0]
    np.testing.assert_array_equal(theta.T, tensors["decode_head.attn.1.theta.conv.weight"][:, :, 0, 0])


def test_the_wrong_variant_is_refused():
    head, template = head_and_template("ade", image_pool=False)
    with pytest.raises(ValueError, match=r"cat.conv.weight is \(64, 320, 1, 1\) in the checkpoint, \(64, 256, 1, 1\)"):
        import_weights(head, recorded.tensors("vwformer_ade"), template)
