"""Import tables of Twins, both ways, and the same outputs as timm's networks.

names/twins_svt_mmseg.txt is recorded from the reference's network, names/twins_*_timm.txt from timm's; PCPVT's names in
mmsegmentation are written down from its source.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import export_weights, import_weights
from se_jax.models.encoders import Twins
from tests.conftest import assert_close_to_reference
from tests.importers import recorded

SMALL = {"widths": (8, 16, 16, 32), "heads": (1, 2, 2, 4)}
# (kind, layout) -> the tiny encoder whose tensors names/twins_<kind>_<layout>.txt lists
ENCODERS = {
    ("svt", "mmseg"): Twins("svt_small", widths=(16, 32, 64, 128), depths=(2, 2, 4, 2), heads=(1, 2, 4, 8)),
    ("svt", "timm"): Twins("svt_small", **SMALL, depths=(2, 2, 3, 1)),
    ("pcpvt", "mmseg"): Twins("pcpvt_small", **SMALL, depths=(2, 1, 1, 1)),
    ("pcpvt", "timm"): Twins("pcpvt_small", **SMALL, depths=(2, 1, 1, 1)),
}
CLASSIFIER = {"norm.weight", "norm.bias", "head.weight", "head.bias"}


def initial(encoder):
    """Variables that are all 7."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, 7.0, leaf.dtype), recorded.template(encoder))


@pytest.mark.parametrize(("kind", "layout"), ENCODERS)
def test_there_and_back(kind, layout):
    encoder, tensors = ENCODERS[kind, layout], recorded.tensors(f"twins_{kind}_{layout}")
    variables = import_weights(encoder, tensors, initial(encoder))
    exported = export_weights(encoder, variables, layout)
    expected = {name: tensor for name, tensor in tensors.items() if name not in CLASSIFIER}
    if (kind, layout) == ("svt", "timm"):  # these four norms are not timm's
        norms = {f"norm_list.{i}.{name}": i for i in range(4) for name in ("weight", "bias")}
        expected |= {name: np.full(encoder.channels[i], 7, np.float32) for name, i in norms.items()}
    assert exported.keys() == expected.keys()
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def test_imagenet_checkpoint_in_the_names_of_mmsegmentation():
    """Such a one has the classifier's norm, and none of the maps'."""
    encoder, tensors = ENCODERS["svt", "mmseg"], recorded.tensors("twins_svt_mmseg")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("norm_list")}
    tensors |= {"norm.weight": np.ones(128, np.float32), "norm.bias": np.ones(128, np.float32)}
    params = import_weights(encoder, tensors, initial(encoder))["params"]
    assert (np.asarray(params["norm_list_3"]["scale"]) == 7).all()


@pytest.mark.parametrize(("kind", "size"), [("svt", (224, 224)), ("svt", (224, 32)), ("pcpvt", (96, 64))])
def test_same_outputs_as_timm(kind, size):
    """With timm's epsilons set to the reference's, and at sizes where the reference does not mask padding either.

    Maps of 56, 28, 14 and 7 pixels are whole windows; 224 x 32 pads them at the right only.
    """
    torch, models = pytest.importorskip("torch"), pytest.importorskip("timm.models.twins")
    encoder, windows = ENCODERS[kind, "timm"], {"wss": (7, 7, 7, 7)} if kind == "svt" else {}
    torch.manual_seed(0)
    model = models.Twins(
        num_classes=5,
        embed_dims=encoder.sizes.widths,
        num_heads=encoder.sizes.heads,
        mlp_ratios=encoder.sizes.mlp_ratios,
        depths=encoder.sizes.depths,
        sr_ratios=encoder.sizes.reductions,
        **windows,
    )
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    state_dict, images, expected = model.state_dict(), torch.randn(1, 3, *size), []
    if kind == "svt":  # the norms that timm does not have
        for i, width in enumerate(encoder.channels):
            state_dict |= {f"norm_list.{i}.weight": torch.ones(width), f"norm_list.{i}.bias": torch.zeros(width)}
    with torch.no_grad():
        for tensor in state_dict.values():  # the model's own memory
            tensor += 0.1 * torch.randn_like(tensor)
        x = images
        for i, (embed, blocks) in enumerate(zip(model.patch_embeds, model.blocks, strict=True)):
            x, shape = embed(x)
            for index, block in enumerate(blocks):
                x = block(x, shape)
                x = model.pos_block[i](x, shape) if index == 0 else x
            if kind == "svt":
                scale, bias = (state_dict[f"norm_list.{i}.{name}"] for name in ("weight", "bias"))
                x = torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias)
            x = x.reshape(1, *shape, -1)
            expected.append(x.numpy())
            x = x.permute(0, 3, 1, 2)
    template = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    variables = import_weights(encoder, {name: t.numpy() for name, t in state_dict.items()}, template, "timm")
    maps = jax.jit(encoder.apply)(variables, images.numpy().transpose(0, 2, 3, 1))
    for actual, reference in zip(maps, expected, strict=True):
        assert_close_to_reference(actual, reference)
