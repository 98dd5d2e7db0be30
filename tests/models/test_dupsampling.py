"""DUpsampling's head: its published costs, its temperature, its windows, and where equalizers can act in it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import counts
from se_jax.equalizer.fusion import Equalizer
from se_jax.equalizer.sites import find_sites, identity_statistics
from se_jax.losses import IGNORE, PixelCrossEntropy
from se_jax.losses.codes import squared_error_of_codes
from se_jax.models import DUpsamplingHead, ResNet, Segmenter, SepASPPHead, Xception, platforms
from se_jax.models.decoders.aspp import atrous_pyramid
from se_jax.models.decoders.dupsampling import DUpsample, tile, untile

VOC = 21


# ---- Published costs ----


class Pyramid(nn.Module):
    """The part of both heads that the paper's FLOPs leave out."""

    channels: int = 256
    dilations: tuple[int, ...] = (1, 6, 12, 18)
    align_corners: bool = False
    equalizer: Equalizer = Equalizer()
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool = False):
        return atrous_pyramid(self, features[-1], train, separable=True, kernel_size=1)


@pytest.fixture(scope="module")
def maps():
    """DeepLab's name of a map -> its shape at 513 x 513; 'resnet' and 'xception' are the last maps."""
    found = {}
    for name, encoder in (
        ("resnet", ResNet(50, "beta", 16, outputs=("conv1_3", "b1u2c3", "b3u6c3", "layer4"))),
        ("xception", Xception("65", outputs=("efb2u1c2", "mfb1u16c3", "map3"))),
    ):
        with platforms.for_platform("tpu"):
            shapes, _ = jax.eval_shape(
                lambda e=encoder: e.init_with_output(jax.random.key(0), jnp.zeros((1, 513, 513, 3)))
            )
        found |= dict(zip((*encoder.outputs[:-1], name), shapes, strict=True))
    return found


def decoder_gflops(head, features) -> float:
    """Two a multiply-add of convolutions, and of a fitted decoder the addition of its bias and the division by T."""
    shapes, variables = jax.eval_shape(head.init_with_output, jax.random.key(0), features)
    elementwise = 2 * shapes["logits"].size if "dupsampling" in variables else 0
    return (2 * (counts.multiply_adds(head, features) - counts.multiply_adds(Pyramid(), features)) + elementwise) / 1e9


@pytest.mark.parametrize(
    ("names", "codes", "published"),
    [
        (["resnet"], 64, 0.80),
        (["conv1_3", "resnet"], 64, 1.13),
        (["b1u2c3", "resnet"], 64, 1.15),
        (["b3u6c3", "resnet"], 64, 1.23),
        (["b1u2c3", "b3u6c3", "resnet"], 64, 1.58),
        (["conv1_3", "b3u6c3", "resnet"], 64, 1.56),
        (["efb2u1c2", "xception"], 128, 1.93),
        (["mfb1u16c3", "xception"], 128, 1.98),
    ],
)
def test_decoders_flops_are_the_papers(maps, names, codes, published):
    features = tuple(jax.ShapeDtypeStruct(maps[name].shape, jnp.float32) for name in names)
    head = DUpsamplingHead(VOC, codes=codes, low_level=tuple(range(len(names) - 1)), align_corners=True)
    assert round(decoder_gflops(head, features), 2) == published


@pytest.mark.parametrize(
    ("names", "published"),
    [(["b1u2c3", "resnet"], 5.53), (["efb2u1c2", "xception"], 5.53), (["mfb1u16c3", "xception"], 0.41)],
)
def test_vanilla_decoders_flops_are_the_papers(maps, names, published):
    features = tuple(jax.ShapeDtypeStruct(maps[name].shape, jnp.float32) for name in names)
    head = SepASPPHead(VOC, 256, in_index=-1, dilations=(1, 6, 12, 18), bottleneck_size=1, align_corners=True)
    assert round(decoder_gflops(head, features), 2) == published


def test_a_fifth_of_the_vanilla_decoder(maps):
    """The abstract's 20 percent."""
    features = tuple(jax.ShapeDtypeStruct(maps[name].shape, jnp.float32) for name in ("b1u2c3", "resnet"))
    vanilla = SepASPPHead(VOC, 256, in_index=-1, dilations=(1, 6, 12, 18), bottleneck_size=1, align_corners=True)
    ratio = decoder_gflops(DUpsamplingHead(VOC, align_corners=True), features) / decoder_gflops(vanilla, features)
    assert 0.207 < ratio < 0.208


def whole_gmac(encoder, decoder) -> float:
    return round(counts.multiply_adds(Segmenter(encoder, decoder), counts.image(513, 513)) / 1e9, 2)


def test_whole_networks_cost_what_was_calculated_from_the_paper():
    """The abstract's 30 percent compares output stride 16 with DeepLabv3+'s at 8; at 16 it is 97 percent."""
    vanilla = {"channels": 256, "bottleneck_size": 1, "align_corners": True}
    ours = whole_gmac(Xception("65", outputs=("efb2u1c2", "map3")), DUpsamplingHead(VOC, codes=128, align_corners=True))
    fine = whole_gmac(Xception("65", 8), SepASPPHead(VOC, dilations=(1, 12, 24, 36), **vanilla))
    same = whole_gmac(Xception("65", 16), SepASPPHead(VOC, dilations=(1, 6, 12, 18), **vanilla))
    assert (ours, fine, same) == (52.23, 176.85, 54.04)
    assert round(100 * ours / fine, 1) == 29.5
    maps = ("b1u2c3", "layer4")
    coarse = whole_gmac(ResNet(50, "beta", 32, outputs=maps), DUpsamplingHead(VOC, ratio=32, align_corners=True))
    assert (whole_gmac(ResNet(50, "beta", 16, outputs=maps), DUpsamplingHead(VOC)), coarse) == (42.35, 27.61)


# ---- Scores, windows, temperature ----


def upsampled(codes, classes, ratio, kernel, bias, log_temperature=0.0):
    variables = {
        "params": {"log_temperature": jnp.full(1, log_temperature)},
        "dupsampling": {"kernel": kernel, "bias": bias},
    }
    return DUpsample(classes, ratio).apply(variables, codes)


def test_scores_are_w_times_the_code_plus_the_mean_window_by_window():
    rng = np.random.default_rng(0)
    codes, kernel, bias = rng.normal(size=(2, 3, 2, 5)), rng.normal(size=(5, 4 * 4 * 3)), rng.normal(size=48)
    logits = upsampled(*map(np.float32, (codes,)), 3, 4, np.float32(kernel), np.float32(bias), np.log(0.5))
    assert logits.shape == (2, 12, 8, 3) and logits.dtype == jnp.float32
    window = (codes[1, 2, 1] @ kernel + bias).reshape(4, 4, 3) / 0.5
    np.testing.assert_allclose(logits[1, 8:, 4:], window, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("classes", [2, 21, 150])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.2, 0.1])
def test_the_loss_of_perfect_scores_has_a_floor_that_the_temperature_lowers(classes, temperature):
    """Scores that equal the one-hot window, at T = 1 and 21 classes, cost 2.1232: there Fig. 5 gets stuck."""
    label = np.random.default_rng(0).integers(0, classes, (1, 4, 4)).astype(np.uint8)
    codes = tile(np.eye(classes, dtype=np.float32)[label], 2)
    size = codes.shape[-1]

    def loss(log_temperature):
        logits = upsampled(codes, classes, 2, jnp.eye(size), jnp.zeros(size), log_temperature)
        return PixelCrossEntropy()({"logits": logits}, {}, {"label": label}, label.size, None)["loss_decoder"]

    floor, slope = jax.value_and_grad(loss)(float(np.log(temperature)))
    assert floor == pytest.approx(np.log(1 + (classes - 1) * np.exp(-1 / temperature)), rel=1e-4, abs=1e-6)
    if (classes, temperature) == (21, 1.0):
        assert round(float(floor), 4) == 2.1232
    assert slope > 0  # a step against the gradient cools


@pytest.mark.parametrize("size", [(512, 512), (513, 513), (500, 375)])
def test_logits_have_the_images_size(size, accelerator_form):
    model = Segmenter(ResNet(18, "beta", 16, width=8), DUpsamplingHead(VOC, channels=8, codes=4))
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    outputs, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros(images.shape)))
    assert outputs["logits"].shape == (1, *size, VOC)
    fitted = jax.tree.map(lambda leaf: leaf.shape, variables["dupsampling"]["decoder"]["dupsample"])
    assert fitted == {"kernel": (4, 16 * 16 * VOC), "bias": (16 * 16 * VOC,)}
    assert variables["params"]["decoder"]["dupsample"]["log_temperature"].shape == (1,)


def test_the_decoder_is_born_orthonormal_and_its_codes_are_handed_out():
    head = DUpsamplingHead(3, channels=4, codes=5, ratio=2, low_level=(), dilations=(1, 2), dropout=0.0)
    features = (jax.random.normal(jax.random.key(0), (2, 4, 3, 6)),)
    variables = head.init(jax.random.key(1), features)
    kernel = variables["dupsampling"]["dupsample"]["kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(5), atol=1e-5)
    outputs = head.apply(variables, features)
    np.testing.assert_allclose(untile(outputs["codes"] @ kernel, 2), outputs["logits"], atol=1e-5)


# ---- The L2 loss ----


def test_l2_loss_is_the_squared_error_of_the_scores_and_blind_where_pixels_are_ignored():
    rng = np.random.default_rng(0)
    ratio, classes = 2, 3
    label = rng.integers(0, classes, (2, 4, 6)).astype(np.uint8)
    kernel = np.float32(np.linalg.qr(rng.normal(size=(12, 12)))[0])
    bias = np.float32(rng.uniform(0, 1, 12))
    codes = np.float32(rng.normal(size=(2, 3, 3, 12)))  # the last row of windows sticks out

    def loss(codes, label=label):
        return float(squared_error_of_codes(codes, kernel, bias, ratio=ratio, label=label)) / 10

    scores = untile(codes @ kernel + bias, ratio)[:, :4]
    expected = np.square(scores - np.eye(classes)[label]).sum() / 12 * ratio**2 / 10  # twelve codes
    assert loss(codes) == pytest.approx(expected, rel=1e-5)

    ignored = label.copy()
    ignored[0, :2, :2] = IGNORE
    ignored[1, 3, 5] = IGNORE
    other = codes.copy()
    other[0, 0, 0] += 1  # the window without a label
    other[:, 2] -= 1  # those that stick out
    assert loss(other, ignored) == loss(codes, ignored) < loss(codes)
    centred = np.where(np.arange(4) < 3, 1, 0).repeat(3) * (np.eye(3)[label[1, 2:, 4:]].reshape(12) - bias)
    perfect = codes.copy()
    perfect[1, 1, 2] = kernel @ centred  # the code of the window with one ignored pixel, as the fit has it
    share = 3 * np.square(codes[1, 1, 2] - perfect[1, 1, 2]).mean() / 10  # three labelled pixels
    assert loss(codes, ignored) - loss(perfect, ignored) == pytest.approx(share, rel=1e-3)
    assert np.isnan(loss(codes, np.full_like(label, 7)))


# ---- Where equalizers can act ----


@pytest.mark.parametrize(
    ("head", "site", "branch", "live"),
    [
        (SepASPPHead(3, 4, in_index=1, dilations=(1, 2), c1_channels=4), "c1", "0_aspp", False),
        (SepASPPHead(3, 4, in_index=1, dilations=(1, 2), c1_channels=4, dense=True), "c1", "0_aspp", True),
        (DUpsamplingHead(3, 4, codes=5, ratio=2, dilations=(1, 2), low_channels=4), "low0", "0_coarse", False),
        (DUpsamplingHead(3, 4, codes=5, ratio=2, dilations=(1, 2), low_channels=4), "aspp", "0_image_pool", True),
    ],
)
def test_a_branchs_scale_matters_only_in_front_of_a_dense_convolution(head, site, branch, live):
    """A separable one normalises every channel before it mixes them: such a site is a control."""
    head = head.clone(equalizer=Equalizer("explicit", sites=(site,)), dropout=0.0)
    keys = jax.random.split(jax.random.key(0), 2)
    features = jax.random.normal(keys[0], (2, 8, 8, 4)), jax.random.normal(keys[1], (2, 4, 4, 6))
    statistics = identity_statistics(find_sites(head, features))
    variables = {**jax.jit(head.init)(jax.random.key(1), features), "equalizer": statistics}
    (holder,) = variables["equalizer"].values()
    assert sorted(holder) == [site]

    @jax.jit
    def logits(variables):
        return head.apply(variables, features, train=True, mutable=["batch_stats"])[0]["logits"]

    before = logits(variables)
    holder[site][branch]["std"] *= 0.2
    change = jnp.abs(logits(variables) - before).max() / before.std()
    assert change > 0.1 if live else change < 0.02


def test_sites_in_running_order():
    head = DUpsamplingHead(3, low_level=(0, 2), equalizer=Equalizer("explicit"))
    features = [jax.ShapeDtypeStruct((1, 16 // stride, 16 // stride, 4), jnp.float32) for stride in (1, 2, 4, 8)]
    found = [(site.name, site.equalized) for site in find_sites(head, features)]
    assert found == [("aspp", True), ("low0", False), ("low1", False)]
