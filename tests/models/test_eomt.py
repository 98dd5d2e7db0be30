"""EoMT against its authors' network: predictions, and what queries look at, masked, annealed and open."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from se_jax.importers import export_weights
from se_jax.importers.convert import match
from se_jax.models import EoMTHead, FCNHead, ResNet, Segmenter, ViT
from se_jax.models.decoders.eomt import visible
from tests import tiny
from tests.conftest import assert_close_to_reference

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Given(nn.Module):
    """A network whose opened queries are given."""

    encoder: nn.Module
    decoder: EoMTHead

    def __call__(self, images, opened=None):
        return self.decoder.predictions(images, self.encoder, opened)


def make(meta: dict, tensors: dict) -> Segmenter:
    """The network of a case of the authors', from its description and its tensors."""
    width, size = tensors["encoder.backbone.norm.weight"].shape[0], meta["size"]
    dinov3 = "encoder.backbone.patch_embed.cls_token" in tensors
    depth = len({name.split(".")[3] for name in tensors if name.startswith("encoder.backbone.blocks.")})
    sizes = {"width": width, "depth": depth, "heads": {24: 2, 48: 3}[width], "patch": 16}
    encoder = ViT("dinov3_small" if dinov3 else "dinov2_small_reg", **sizes, grid=(size[0] // 16, size[1] // 16))
    return Segmenter(
        encoder, EoMTHead(len(tensors["class_head.bias"]) - 1, queries=meta["queries"], blocks=meta["blocks"])
    )


def template(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


@pytest.mark.parametrize("part", ["dinov2", "dinov3"])
def test_network_equals_the_authors(golden, part):
    case = golden("eomt_net", "whole")
    meta, tensors = case.meta[part], case.group(f"{part}/sd")
    model = make(meta, tensors)
    found = match(model, {f"network.{name}": tensor for name, tensor in tensors.items()}, template(model, meta["size"]))
    assert (found.layout, found.kept, found.adapted) == ("eomt", (), {})
    exported = export_weights(model, found.variables, "eomt")
    assert exported.keys() == tensors.keys() - {"encoder.pixel_mean", "encoder.pixel_std"}
    for name, tensor in exported.items():
        np.testing.assert_array_equal(tensor, tensors[name], err_msg=name)

    images = (case[f"{part}/in/image"].transpose(0, 2, 3, 1) - MEAN) / STD
    network = Given(model.encoder, model.decoder)
    run = jax.jit(network.apply)
    for name, (masked, shares) in meta["runs"].items():
        expected = case.group(f"{part}/out/{name}")
        opened = case[f"{part}/in/uniform"] > np.array(shares)[:, None, None] if masked else None
        outputs = run(found.variables, images, opened)
        masks = outputs["mask_features"]
        if not masked:
            assert len(masks) == 1
        for i, (classes, mask) in enumerate(zip(outputs["class_logits"], masks, strict=True)):
            assert_close_to_reference(classes, expected[f"classes/{i}"], 2e-5)
            assert_close_to_reference(mask.transpose(0, 3, 1, 2), expected[f"masks/{i}"], 2e-5)
        for i in range(meta["blocks"]) if masked else ():
            attend = expected[f"attend/{i}"]
            seen = visible(masks[i], opened[i], model.encoder.table_grid, meta["queries"] + 5 + attend.shape[-1])
            np.testing.assert_array_equal(seen[..., -attend.shape[-1] :], attend)
            assert seen[..., : -attend.shape[-1]].all()


def test_masked_shares_fall_from_one_to_zero():
    head = EoMTHead(5, blocks=2, anneal=((0.0, 0.5), (0.5, 1.0)))
    shares = [head.masked_shares(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    half = 0.5**0.9
    np.testing.assert_allclose(shares, [[1, 1], [half, 1], [0, 1], [0, half], [0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(EoMTHead(5, blocks=3).masked_shares(0.9), [1, 1, 1])


def test_training_masks_and_predicts_before_every_block():
    model = tiny.network("eomt")
    model = model.clone(decoder=model.decoder.clone(anneal=((0.0, 0.5),)))
    variables, images = tiny.init(model, 16), jnp.asarray(tiny.images(2, 16), jnp.float32) / 255

    @jax.jit
    def run(progress, key):
        return model.apply(variables, images, True, progress, rngs={"dropout": jax.random.key(key)})["mask_features"]

    plain = jax.jit(model.apply)(variables, images)["mask_features"]
    closed, again, half, open_ = run(0.0, 0), run(0.0, 1), run(0.2, 0), run(0.6, 0)
    assert (len(plain), len(closed)) == (1, 2)
    np.testing.assert_array_equal(closed, again)  # nobody is opened, whatever is drawn
    assert jnp.any(half[-1] != closed[-1]) and jnp.any(half[-1] != run(0.2, 1)[-1])
    np.testing.assert_allclose(open_[-1], plain[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.1}, "dropout is 0.1; expected 0"),
        ({"anneal": ((0.0, 0.5),)}, "expected .start, end. of each of the 3 blocks"),
        ({"blocks": 1, "anneal": ((0.5, 0.5),)}, "start < end"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EoMTHead(5, **options)


def test_networks_that_cannot_be_are_named():
    head, vit = EoMTHead(5, blocks=3), ViT(width=16, depth=2, heads=2)
    with pytest.raises(
        ValueError, match="encoder is ResNet; decoder EoMTHead runs blocks of a plain vision transformer"
    ):
        Segmenter(ResNet(18), head)
    with pytest.raises(ValueError, match=r"auxiliary is FCNHead; .*\(model.auxiliary=None\)"):
        Segmenter(vit, head, FCNHead(5))
    with pytest.raises(ValueError, match="blocks is 3; the encoder has 2"):
        template(Segmenter(vit, head), (28, 28))


def test_gradients_do_not_go_through_masks():
    masks = jnp.ones((1, 4, 4, 2))
    np.testing.assert_array_equal(
        jax.grad(lambda x: visible(x, jnp.zeros((1, 2), bool), (2, 2), 5).sum() * 1.0)(masks), 0
    )


def test_parameters_are_the_authors(golden):
    """Every tensor of the published sizes has its place: S at 512 x 512 with 150 classes, million parameters."""
    encoder = ViT("dinov2_small_reg", patch=16, grid=(32, 32))
    flat = traverse_util.flatten_dict(template(Segmenter(encoder, EoMTHead(150)), (512, 512)))
    assert abs(sum(leaf.size for leaf in flat.values()) / 1e6 - 23.72) < 0.02
