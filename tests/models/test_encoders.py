"""What all families of encoders have in common, a table a property: the reference's maps, published sizes, remat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import export_weights, import_weights
from se_jax.models import platforms
from se_jax.models.encoders import (
    ConvNeXt,
    EfficientNet,
    HRNet,
    MixVisionTransformer,
    MobileNetV2,
    ResNet,
    Swin,
    Twins,
    ViT,
    Xception,
    efficientnet,
    mit,
    twins,
)
from se_jax.models.encoders.hrnet import ExchangeModule
from tests import tiny
from tests.conftest import assert_close_to_reference, is_in_repository

IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


# ---- The reference's maps ----

# golden case -> our encoder of the reference's constructor arguments
GOLDEN = {
    "bb_convnext": lambda kwargs: ConvNeXt(widths=kwargs["arch"]["channels"], depths=kwargs["arch"]["depths"]),
    # a bottleneck whose input has its output's channels has no shortcut convolution: 64 = 4 x 16 here
    "bb_hrnet": lambda kwargs: hrnet(**kwargs["extra"]),
    "bb_mit": lambda kwargs: MixVisionTransformer("b0", width=kwargs["embed_dims"]),
    "bb_mobilenetv2_w050_d32": lambda kwargs: MobileNetV2(kwargs["widen_factor"], output_stride=32),
    "bb_r18v1c_d8": lambda kwargs: ResNet(kwargs["depth"], width=kwargs["base_channels"], output_stride=8),
    "bb_r50v1c_d8": lambda kwargs: ResNet(kwargs["depth"], width=kwargs["base_channels"], output_stride=8),
    # maps that are whole windows, that need padding, and that are smaller than a window
    "bb_swin_w7": lambda kwargs: Swin(
        width=kwargs["embed_dims"], depths=kwargs["depths"], heads=kwargs["num_heads"], window=kwargs["window_size"]
    ),
    # every kind of padding
    "bb_twins_svt": lambda kwargs: Twins(
        "svt_small", widths=kwargs["embed_dims"], depths=kwargs["depths"], heads=kwargs["num_heads"]
    ),
}


def hrnet(stage1, **stages):
    return HRNet(
        width=stages["stage2"]["num_channels"][0],
        layer1_blocks=stage1["num_blocks"][0],
        layer1_width=stage1["num_channels"][0],
        modules=[stages[f"stage{stage}"]["num_modules"] for stage in (2, 3, 4)],
        blocks=stages["stage2"]["num_blocks"][0],
    )


def reference_variables(model, case):
    template, tensors = tiny.shapes(model, IMAGES), case.group("sd")
    if "part" in case.meta:  # the maps that it has do not depend on the weights that it lacks
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
        tensors = export_weights(model, zeros) | tensors
    return import_weights(model, tensors, template)


def golden_runs():
    """(case, part or whole, platform): both platforms' forms, but of a whole case whose part is here a CPU's only."""
    for name in GOLDEN:
        for which in ("part", "whole") if is_in_repository(name) else ("whole",):
            twice = which == "part" or not is_in_repository(name)
            yield from ((name, which, platform) for platform in (("cpu", "tpu") if twice else ("cpu",)))


@pytest.mark.parametrize(("name", "which", "platform"), list(golden_runs()))
def test_equals_the_reference_at_even_and_odd_sizes(golden, name, which, platform):
    with platforms.for_platform(platform):
        assert_equals_the_reference(golden(name, which), name)


def assert_equals_the_reference(case, name):
    model = GOLDEN[name](case.meta["kwargs"])
    variables = reference_variables(model, case)
    for size, images in case.group("in").items():
        expected = case.group(f"out/{size}")
        forward = jax.jit(lambda v, x, maps=tuple(expected): model.apply(v, x)[: len(maps)])
        for stage, actual in enumerate(forward(variables, images.transpose(0, 2, 3, 1))):
            assert_close_to_reference(actual, expected[str(stage)].transpose(0, 2, 3, 1))


# ---- Published sizes ----

LARGER = [
    (96, 192, 384, 768),
    (96, 192, 384, 768),
    (128, 256, 512, 1024),
    (192, 384, 768, 1536),
    (256, 512, 1024, 2048),
]
PYRAMID = (64, 128, 320, 512)

# (encoder, channels, million parameters); for EfficientNet and Xception see their own tests
PUBLISHED = [
    *(
        (ConvNeXt(variant), channels, millions)
        for (variant, millions), channels in zip(
            [("tiny", 27.82), ("small", 49.46), ("base", 87.57), ("large", 196.23), ("xlarge", 348.15)],
            LARGER,
            strict=True,
        )
    ),
    *(
        (HRNet(variant), (width, 2 * width, 4 * width, 8 * width), millions)
        for variant, width, millions in [
            ("w18_small", 18, 3.86),
            ("w18", 18, 9.56),
            ("w32", 32, 29.31),
            ("w48", 48, 65.33),
        ]
    ),
    (MixVisionTransformer("b0"), (32, 64, 160, 256), 3.32),
    *(
        (MixVisionTransformer(variant), PYRAMID, millions)
        for variant, millions in [("b1", 13.15), ("b2", 24.20), ("b3", 44.07), ("b4", 60.84), ("b5", 81.44)]
    ),
    (MobileNetV2(output_stride=8), (24, 32, 96, 320), 1.81),
    (MobileNetV2(output_stride=32), (24, 32, 96, 320), 1.81),
    (MobileNetV2(0.35, output_stride=8), (8, 16, 32, 112), None),
    (MobileNetV2(1.4, output_stride=32), (32, 48, 136, 448), None),
    (ResNet(50, output_stride=8), (256, 512, 1024, 2048), 23.53),
    (ResNet(101, output_stride=8), (256, 512, 1024, 2048), 42.52),
    (ResNet(152, "v1b"), (256, 512, 1024, 2048), 58.14),
    (Swin("tiny", window=7), LARGER[0], 27.52),
    (Swin("small", window=7), LARGER[1], 48.84),
    (Swin("base", window=7), LARGER[2], 86.75),
    (Swin("base", window=12), LARGER[2], 86.88),
    (Swin("large", window=7), LARGER[3], 195.00),
    (Swin("large", window=12), LARGER[3], 195.20),
    (Twins("svt_small"), (64, 128, 256, 512), 23.55),
    (Twins("svt_base"), (96, 192, 384, 768), 55.30),
    (Twins("svt_large"), (128, 256, 512, 1024), 98.25),
    (Twins("pcpvt_small"), PYRAMID, 23.59),
    (Twins("pcpvt_base"), PYRAMID, 43.31),
    (Twins("pcpvt_large"), PYRAMID, 60.48),
]


@pytest.mark.parametrize(("model", "channels", "millions"), PUBLISHED)
def test_published_sizes(accelerator_form, model, channels, millions):
    """Channels, parameters, and maps of an odd image: rounded up, by ConvNeXt down."""
    shape = jax.ShapeDtypeStruct((1, 95, 66, 3), jnp.float32)
    maps, variables = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), shape)
    assert model.channels == channels
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert millions is None or round(count / 1e6, 2) == millions
    strides = [min(stride, getattr(model, "output_stride", 32)) for stride in (4, 8, 16, 32)]
    up = 0 if isinstance(model, ConvNeXt) else 1
    expected = [(1, *((n - up) // s + up for n in (95, 66)), c) for s, c in zip(strides, channels, strict=True)]
    assert [leaf.shape for leaf in maps] == expected


# ---- Remat ----


class FirstBlocks(MobileNetV2):
    """Two of the seventeen blocks, since more take long to compile."""

    def _geometry(self):
        return [layer[:1] for layer in super()._geometry()[:2]]


def first_stages(patch):
    patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])  # three blocks, the last with drop path
    patch.setattr(efficientnet, "OUTPUTS", (0, 1))
    return EfficientNet(width=0.25, drop_path=0.9)


# family -> (an encoder that compiles fast, or what makes it; how many blocks it has; of how many maps the gradient)
REMAT = {
    "convnext": (ConvNeXt(widths=(4, 8, 12, 16), depths=(2, 1, 2, 1)), 6, 1),
    "efficientnet": (first_stages, 3, 2),
    "hrnet": (ExchangeModule(2, 1), 2, 2),
    "mit": (MixVisionTransformer("b0", width=2, depths=(1, 1, 1, 1), heads=(1, 2, 2, 2)), 4, 1),
    "mobilenetv2": (FirstBlocks(width=0.1), 2, 4),
    "resnet": (ResNet(10, width=8), 4, 4),
    "swin": (Swin(width=8, depths=(2, 1, 1, 1), heads=(1, 2, 2, 4), window=3), 5, 1),
    "twins": (Twins("svt_small", widths=(2, 4, 4, 8), heads=(1, 2, 2, 2), depths=(2, 1, 1, 1)), 5, 1),
    "vit": (ViT("dinov3_small", width=16, depth=2, heads=2, patch=8), 2, 1),
    "xception": (Xception(entry=((8, 2),) * 3, middle=0, exit=((8, 8, 8),) * 2), 5, 1),
}


@pytest.mark.parametrize("family", REMAT)
@pytest.mark.usefixtures("accelerator_form")
def test_remat_recomputes_every_block_and_changes_neither_variables_nor_gradients(family, monkeypatch):
    model, blocks, levels = REMAT[family]
    plain = model(monkeypatch) if callable(model) and not hasattr(model, "clone") else model
    remat = plain.clone(remat=True)
    rng = np.random.default_rng(1)
    if family == "hrnet":
        x = tuple(np.float32(rng.normal(size=(2, 6 >> i, 4 >> i, 2 << i))) for i in (0, 1))
    else:
        x = np.float32(rng.normal(size=(2, 32 if family == "vit" else 33, 32, 3)))
    shapes = tiny.shapes(plain, x)
    assert jax.tree.structure(shapes) == jax.tree.structure(tiny.shapes(remat, x))
    variables = tiny.fill(shapes)

    def gradient(model):
        def loss(params):
            rngs = {"dropout": jax.random.key(2)}
            maps, _ = model.apply({**variables, "params": params}, x, True, rngs=rngs, mutable=["batch_stats"])
            return sum(jnp.mean(m**2) for m in maps[:levels])

        jaxpr = jax.make_jaxpr(loss)(variables["params"])
        return sum(e.primitive.name == "remat2" for e in jaxpr.eqns), jax.jit(jax.grad(loss))(variables["params"])

    (none, expected), (recomputed, actual) = gradient(plain), gradient(remat)
    assert (none, recomputed) == (0, blocks)
    for path, leaf in jax.tree.leaves_with_path(actual):
        reference = dict(jax.tree.leaves_with_path(expected))[path]
        np.testing.assert_allclose(leaf, reference, rtol=1e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_remat_of_a_whole_hrnet_keeps_its_variables():
    plain = HRNet(width=2, layer1_blocks=1, layer1_width=2, modules=(1, 1, 1), blocks=1)
    whole = (tiny.shapes(model, IMAGES) for model in (plain, plain.clone(remat=True)))
    assert len({jax.tree.structure(shapes) for shapes in whole}) == 1


# ---- Bad input ----


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        (ConvNeXt, {"variant": "nano"}, "variant is 'nano'; expected one of tiny, small, base, large, xlarge"),
        (ConvNeXt, {"widths": (8, 16, 32)}, r"widths is \(8, 16, 32\); expected four positive numbers"),
        (ConvNeXt, {"depths": (3, 3, 0, 3)}, r"depths is \(3, 3, 0, 3\); expected four positive numbers"),
        (ConvNeXt, {"drop_path": -0.1}, "drop_path is -0.1; expected a rate from 0 to below 1"),
        (EfficientNet, {"variant": "b8"}, "variant is 'b8'; expected one of b0, b1"),
        (EfficientNet, {"padding": "valid"}, "padding is 'valid'; expected one of same, symmetric"),
        (EfficientNet, {"width": 0.0}, "width is 0.0; expected a positive"),
        (EfficientNet, {"depth": -1}, "depth is -1; expected a positive"),
        (EfficientNet, {"momentum": 0.0}, r"momentum is 0.0; expected a share in \(0, 1\]"),
        (EfficientNet, {"drop_path": 1.0}, r"drop_path is 1.0; expected a rate in \[0, 1\)"),
        (HRNet, {"variant": "w17"}, "HRNet variant is 'w17'; expected one of w18_small, w18, w32, w48"),
        (HRNet, {"modules": (1, 4)}, "modules is .1, 4.; expected three positive numbers"),
        (HRNet, {"modules": (1, 0, 3)}, "expected three positive numbers"),
        (HRNet, {"width": 0}, "width is 0; expected a positive number"),
        (HRNet, {"blocks": 0}, "blocks is 0"),
        (HRNet, {"layer1_blocks": 0}, "layer1_blocks is 0"),
        (HRNet, {"layer1_width": -1}, "layer1_width is -1"),
        (MixVisionTransformer, {"variant": "b6"}, "variant is 'b6'; expected one of " + ", ".join(mit.VARIANTS)),
        (MixVisionTransformer, {"depths": (2, 2)}, r"depths is \(2, 2\); expected 4"),
        (MixVisionTransformer, {"heads": (0, 2, 5, 8)}, "heads is"),
        (MixVisionTransformer, {"width": 0}, "width is 0"),
        (MixVisionTransformer, {"drop_path": 1.0}, "drop_path is 1.0"),
        (MobileNetV2, {"output_stride": 16}, "output_stride is 16; expected one of 8, 32"),
        (MobileNetV2, {"width": 0}, "width is 0; expected a positive multiplier"),
        (MobileNetV2, {"width": -0.5}, "width is -0.5"),
        (ResNet, {"depth": 20}, "depth is 20; expected one of 10, 18, 34, 50, 101, 152"),
        (ResNet, {"variant": "v2"}, "variant is 'v2'"),
        (
            ResNet,
            {"outputs": ("b1u9c3", "layer4")},
            "outputs names b1u9c3; v1c of depth 50 has conv1_3, b1u1c3, .*layer4",
        ),
        (ResNet, {"variant": "v1b", "outputs": ("conv1_3",)}, "outputs names conv1_3; v1b of depth 50 has conv1,"),
        (ResNet, {"output_stride": 4}, "output_stride is 4; expected one of 8, 16, 32"),
        (ResNet, {"multi_grid": (1, 2)}, "each of the 3 blocks"),
        (ResNet, {"width": 9}, "positive even"),
        (Swin, {"variant": "huge"}, "variant is 'huge'; expected one of tiny, small, base, large"),
        (Swin, {"depths": (2, 2, 2)}, r"depths is \(2, 2, 2\); expected four positive numbers"),
        (Swin, {"heads": (3, 6, 12, 0)}, r"heads is \(3, 6, 12, 0\); expected four positive numbers"),
        (Swin, {"width": 100}, r"heads \(3, 6, 12, 24\) do not divide its channels \(100, 200, 400, 800\)"),
        (Swin, {"window": 0}, "window is 0; expected a positive number"),
        (Swin, {"drop_path": 1.0}, "drop_path is 1.0; expected a rate from 0 to below 1"),
        (Twins, {"variant": "svt"}, "variant is 'svt'; expected one of " + ", ".join(twins.VARIANTS)),
        (Twins, {"depths": (2, 2)}, r"depths is \(2, 2\); expected 4"),
        (Twins, {"mlp_ratios": (4, 4, 4, 0)}, "mlp_ratios is"),
        (Twins, {"widths": (64, 127, 256, 512)}, "not multiples of its heads"),
        (Twins, {"window": 0}, "window is 0"),
        (Twins, {"variant": "pcpvt_small", "window": 7}, "window is 7 with variant 'pcpvt_small'"),
        (Twins, {"drop_path": 1.0}, "drop_path is 1.0"),
        (Xception, {"variant": "66"}, "variant is '66'; expected one of 41, 65, 71"),
        (Xception, {"output_stride": 4}, "output_stride is 4; expected one of 8, 16, 32"),
        (
            Xception,
            {"outputs": ("mfb1u17c3",)},
            "outputs names mfb1u17c3; variant 65 has map0, .*efb1u1c1, .*mfb1u16c3",
        ),
        (Xception, {"multi_grid": (1, 2)}, r"multi_grid is \(1, 2\); expected three positive"),
        (Xception, {"entry": ((8, 2), (16, 2), (24, 1))}, r"entry has strides \[2, 2, 1\]; expected three times 2"),
    ],
)
def test_unknown_options_are_refused(encoder, options, message):
    with pytest.raises(ValueError, match=message):
        encoder(**options)


@pytest.mark.parametrize(
    ("encoder", "size", "least", "message"),
    [
        # the last map would be empty
        (ConvNeXt, (64, 31), (32, 32), "images of 64 x 31; expected at least 32 a side"),
        # an attention would have no key
        (MixVisionTransformer, (28, 64), (29, 29), "image of 28 x 64; expected at least 29 x 29"),
        (Twins, (64, 28), (29, 29), "image of 64 x 28; expected at least 29 x 29"),
    ],
)
def test_images_that_are_too_small_are_refused(encoder, size, least, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder().init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    jax.eval_shape(encoder().init, jax.random.key(0), jnp.zeros((1, *least, 3)))
