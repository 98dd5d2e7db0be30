"""ViT against the authors' networks of DINOv2 and DINOv3, and timm's; its positions, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers.convert import match
from se_jax.models import LinearHead, ViT
from se_jax.models.positions import resize_table, rotations
from tests import tiny
from tests.conftest import assert_close_to_reference

assert_close = functools.partial(assert_close_to_reference, tolerance=2e-5)  # an epsilon of 1e-5 shows at 2.6e-5


def make(kwargs: dict, variant: str, blocks: int, **options) -> ViT:
    """The encoder of a case's constructor arguments, of whose last blocks the maps are returned."""
    depth = kwargs["depth"]
    return ViT(
        variant,
        width=kwargs["embed_dim"],
        depth=depth,
        heads=kwargs["num_heads"],
        patch=kwargs["patch_size"],
        size=kwargs["img_size"],
        outputs=tuple(range(depth - blocks, depth)),
        mlp_ratio=kwargs.get("mlp_ratio", kwargs.get("ffn_ratio", 4)),
        gated=kwargs.get("ffn_layer") == "swiglu",
        registers=kwargs.get("num_register_tokens", kwargs.get("n_storage_tokens", 0)),
        antialias=kwargs.get("interpolate_antialias", True),
        offset=kwargs.get("interpolate_offset", 0.0),
        **options,
    )


def template(model, size):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


CASES = [
    ("vit_dinov2", "plain", "dinov2_small", 4),
    ("vit_dinov2", "reg", "dinov2_small_reg", 3),
    ("vit_dinov3", "mlp", "dinov3_small", 2),
    ("vit_dinov3", "gated", "dinov3_small_plus", 2),
    ("vit_timm", "augreg", "base", 1),
]


@pytest.mark.parametrize(("name", "part", "variant", "blocks"), CASES)
def test_maps_equal_the_reference(golden, name, part, variant, blocks):
    """At grids of the table, and wider and higher ones."""
    case = golden(name, "whole")
    model = make(case.meta[part]["kwargs"], variant, blocks)
    run = jax.jit(model.apply)
    for i, size in enumerate(map(tuple, case.meta[part]["sizes"])):
        variables = match(model, case.group(f"{part}/sd"), template(model, size)).variables
        maps = np.concatenate(run(variables, case[f"{part}/in/{i}"].transpose(0, 2, 3, 1)), axis=-1)
        if part == "augreg":
            expected = case[f"{part}/out/{i}/norm"][:, 1:].reshape(maps.shape)
        else:
            expected = case[f"{part}/out/{i}/last{4 if name == 'vit_dinov2' else 2}"].transpose(0, 2, 3, 1)
        assert_close(maps, expected)


def test_linear_heads_equal_the_reference(golden):
    """On the last map, and on the last four; with running statistics, and with the batch's."""
    case = golden("vit_dinov2", "whole")
    model = make(case.meta["plain"]["kwargs"], "dinov2_small", 4)
    size = tuple(case.meta["plain"]["sizes"][0])
    variables = match(model, case.group("plain/sd"), template(model, size)).variables
    maps = jax.jit(model.apply)(variables, case["plain/in/0"].transpose(0, 2, 3, 1))
    for name, features in (("linear1", maps[-1:]), ("linear4", maps)):
        names = {"0": "bn", "1": "conv_seg"}
        tensors = {names[key[0]] + key[1:]: tensor for key, tensor in case.group(f"{name}/sd").items()}
        head = LinearHead(len(tensors["conv_seg.bias"]))
        variables = match(head, tensors, jax.eval_shape(head.init, jax.random.key(0), features)).variables
        logits = head.apply(variables, features)["logits"]
        assert_close(logits, case[f"{name}/out/eval"].transpose(0, 2, 3, 1))
        outputs, _ = head.apply(variables, features, True, mutable=["batch_stats"])
        assert_close(outputs["logits"], case[f"{name}/out/train"].transpose(0, 2, 3, 1))


def test_a_patch_of_14_becomes_one_of_16(golden):
    """As timm does it when it loads weights; its class token has its position already."""
    case = golden("vit_timm", "whole")
    size = tuple(case.meta["patch14"]["size"])
    tensors = case.group("patch14/sd")
    sizes = {"width": 48, "depth": sum(name.endswith("norm1.weight") for name in tensors), "heads": 3}
    model = ViT("dinov2_small_reg", **sizes, patch=16, grid=(size[0] // 16, size[1] // 16))
    found = match(model, tensors, template(model, size))
    assert found.adapted == {"params/patch_embed/kernel": "patch 14 -> 16", "params/position": "grid 5 x 5 -> (5, 7)"}
    params = found.variables["params"]
    assert_close(params["patch_embed"]["kernel"].transpose(3, 2, 0, 1), case["patch14/out/kernel"])
    assert_close(params["position"], case["patch14/out/pos_embed"][0])
    assert_close(params["cls_token"], case["patch14/out/cls_token"][0, 0])
    (y,) = jax.jit(model.apply)(found.variables, case["patch14/in/0"].transpose(0, 2, 3, 1))
    assert_close(y.reshape(len(y), -1, 48), case["patch14/out/norm"][:, -y.shape[1] * y.shape[2] :])


def test_positions_equal_the_reference(golden):
    case = golden("vit_timm", "whole")
    ways = {"antialias": (True, 0.0), "size": (False, 0.0), "offset": (False, 0.1), "offset_antialias": (True, 0.1)}
    for i, (grid, size) in enumerate(case.meta["ops"]["pos"]):
        table = case[f"ops/pos/{i}/in"][0, 1:]
        for name, (antialias, offset) in ways.items():
            expected = case[f"ops/pos/{i}/{name}"][0]
            expected = expected[1:] if name == "antialias" else expected.transpose(1, 2, 0).reshape(-1, len(expected))
            found = resize_table(table, tuple(grid), tuple(size), antialias=antialias, offset=offset)
            assert_close(found, expected[-len(found) :])
    case = golden("vit_dinov3", "whole")
    for name, grid in (("0", (5, 5)), ("1", (3, 7)), ("2", (7, 4))):
        cosines, sines = rotations(grid, 16)
        assert_close(cosines, case[f"mlp/out/{name}/cos"])
        assert_close(sines, case[f"mlp/out/{name}/sin"])


MILLIONS = {
    "dinov2_small": 22.06,
    "dinov2_base": 86.58,
    "dinov2_large": 304.37,
    "dinov2_giant": 1136.48,
    "dinov2_giant_reg": 1136.49,
    "dinov3_small": 21.59,
    "dinov3_small_plus": 28.68,
    "dinov3_base": 85.64,
    "dinov3_large": 303.08,
    "dinov3_huge_plus": 840.51,
}


def test_published_sizes(accelerator_form):
    """Million parameters; of DINOv3 without layer scales and the biases of keys, which nobody uses."""
    for variant, millions in MILLIONS.items():
        model = ViT(variant)
        patch, sizes = model.size_multiple, model.sizes
        shapes = template(model, (2 * patch, 3 * patch))
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        if sizes.rotary:
            count -= 3 * sizes.width * sizes.depth
        assert abs(count / 1e6 - millions) < 0.0151, variant


TINY = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "size": 16}


def test_rotations_are_drawn_in_training_only():
    model = ViT("dinov3_small", **TINY)
    images = jnp.asarray(tiny.images(1, 16), jnp.float32) / 255
    variables = tiny.fill(template(model, (16, 16)))

    def run(train=True, **rngs):
        return model.apply(variables, images, train, rngs=rngs)[0]

    with jax.disable_jit(False):
        still = run(False)
        np.testing.assert_array_equal(run(), still)
        assert jnp.any(run(dropout=jax.random.key(0)) != still)
        fixed = model.clone(rescale=1.0)
        np.testing.assert_array_equal(
            fixed.apply(variables, images, True, rngs={"dropout": jax.random.key(0)})[0], still
        )


def test_four_outputs_of_one_grid_and_a_pyramid():
    model = ViT("tiny", **(TINY | {"depth": 4}), outputs=(0, 1, 3, 3), pyramid=True)
    shapes = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), jnp.zeros((2, 8, 20, 3)))[0]
    assert [x.shape for x in shapes] == [(2, 8, 20, 16), (2, 4, 10, 16), (2, 2, 5, 16), (2, 1, 2, 16)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "dinov4"}, "variant is 'dinov4'; expected one of dinov2_small"),
        ({"width": 100}, "width is 100; expected a multiple of 6, for heads=6"),
        ({"outputs": (3, 12)}, r"outputs is \(3, 12\); expected numbers of blocks, of 0 to 11"),
        ({"outputs": (3, 11), "pyramid": True}, "expected one block, or four"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_sizes_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ViT(**options)


def test_images_that_are_no_whole_patches_are_refused():
    with pytest.raises(
        ValueError, match="images of 360 x 480; .* multiples of its patch, 14: .* 350 x 476 and 364 x 490"
    ):
        template(ViT(), (360, 480))


def test_weights_of_another_patch_or_grid_or_with_other_registers_are_named():
    plain, other = ViT("dinov2_small", **TINY), ViT("dinov2_small", **(TINY | {"patch": 8}))
    tensors = {name: np.zeros(x.shape, np.float32) for name, x in _official(plain).items()}
    with pytest.raises(ValueError, match="its patch is 4, the network's 8: give model.encoder.patch=4"):
        match(other, tensors, template(other, (16, 16)))
    larger = ViT("dinov2_small", **(TINY | {"size": 32}))
    with pytest.raises(
        ValueError, match="positions are of 4 x 4 patches, the network's of 8 x 8: give model.encoder.size"
    ):
        match(larger, tensors, template(larger, (16, 16)))
    registers = ViT("dinov2_small", **TINY, registers=4)
    with pytest.raises(ValueError, match=r"set model.encoder.registers to [^\0]*no tensor register_tokens"):
        match(registers, tensors, template(registers, (16, 16)))
    with pytest.raises(ValueError, match="tensor register_tokens .* has no place in this network"):
        match(plain, tensors | {"register_tokens": np.zeros((1, 4, 16))}, template(plain, (16, 16)))
    with pytest.raises(ValueError, match=r"\(1 differences[^\0]*has 6 registers, the network 4: give .*registers=6"):
        match(registers, tensors | {"register_tokens": np.zeros((1, 6, 16))}, template(registers, (16, 16)))
    rotary = ViT("dinov3_small", **TINY, registers=0)
    with pytest.raises(ValueError, match=r"model.encoder.variant: DINOv2 .*[^\0]*pos_embed .* has no place"):
        match(rotary, tensors, template(rotary, (16, 16)))


def _official(model):
    from se_jax.importers import export_weights

    return export_weights(model, jax.tree.map(lambda x: np.zeros(x.shape), template(model, (16, 16))), "official")
