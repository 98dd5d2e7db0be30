"""VWFormerHead: published sizes and costs, a PyTorch witness, its sites, what a new network starts from, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import counts
from se_jax.equalizer import calibrate
from se_jax.equalizer.fold import fold
from se_jax.equalizer.fusion import Equalizer
from se_jax.equalizer.sites import find_sites
from se_jax.importers import import_weights
from se_jax.models import ResNet, Segmenter, UPerHead
from se_jax.models.decoders.vwformer import VWFormerHead
from tests import tiny

MIT_B0, MIT = (32, 64, 160, 256), (64, 128, 320, 512)
CONVNEXT_T, SWIN_L = (96, 192, 384, 768), (192, 384, 768, 1536)
SMALL = {"channels": 64, "c1_channels": 8}


def shapes(channels, height=512, width=512):
    return tuple(
        jax.ShapeDtypeStruct((1, height // stride, width // stride, c), jnp.float32)
        for stride, c in zip((4, 8, 16, 32), channels, strict=True)
    )


def features(channels=(6, 8, 10, 12), height=128, width=256, batch=2):
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(0.3, 1, (batch, *x.shape[1:])), jnp.float32) for x in shapes(channels, height, width)
    ]


@pytest.mark.parametrize(
    ("head", "channels", "parameters"),
    [
        (VWFormerHead(150), MIT, 7.427e6),
        (VWFormerHead(150), CONVNEXT_T, 7.625e6),
        (VWFormerHead(150), SWIN_L, 8.317e6),
        (VWFormerHead(150, channels=64), MIT, 0.186e6),
        (VWFormerHead(150, variant="light"), MIT_B0, 0.483e6),
        (VWFormerHead(150, variant="light"), MIT, 0.545e6),
    ],
)
def test_parameter_count_is_the_published_codes(head, channels, parameters):
    assert round(counts.parameters(head, shapes(channels)), -3) == parameters


def test_cost_is_that_of_the_published_code_less_what_is_shared():
    """At 512 x 512 the windows of ratio 8 share their context: keys and values are computed for 64 tokens a channel."""
    shared = 2 * 64**2 * 512**2 * (1 - 1 / 64)
    for channels, expected in ((MIT, 33.1e9), (CONVNEXT_T, 33.3e9)):
        found = counts.multiply_adds(VWFormerHead(150), shapes(channels))
        assert round((found + shared) / 1e8) * 1e8 == expected
    # with Swin-L, at 512 x 512, near the half of UPerNet that the paper's abstract speaks of
    whole = [205.6e9 + counts.multiply_adds(head, shapes(SWIN_L)) for head in (VWFormerHead(150), UPerHead(150))]
    assert 0.5 < whole[0] / whole[1] < 0.6
    # at 640 x 640 nothing is shared
    small, large = (counts.multiply_adds(VWFormerHead(150), shapes(MIT, size, size)) for size in (512, 640))
    core = 3 * 2 * 512 * (80**2 * 10**2 - 64**2 * 8**2 * (640 / 512) ** 2)  # grows with the area's square
    pool = 512**2  # of one pixel, whatever the size
    assert large == (small + shared - pool) * (640 / 512) ** 2 + core + pool


@pytest.mark.parametrize("encoder", ["mit", "swin", "convnext"])
def test_goes_under_encoders_of_four_strides(encoder):
    """In training, where images are not square, and in evaluation, where windows are odd."""
    model = Segmenter(tiny.ENCODERS[encoder], VWFormerHead(5, **SMALL))

    def run(size, train):
        images = jnp.zeros((2, *size, 3))
        return model.init_with_output(jax.random.key(0), images, train)[0]["logits"]

    assert jax.eval_shape(lambda: run((128, 256), True)).shape == (2, 32, 64, 5)
    assert jax.eval_shape(lambda: run((192, 64), False)).shape == (2, 48, 16, 5)


def test_fields_replace_the_variants():
    sizes = VWFormerHead(5, variant="cityscapes", channels=128, heads=8).sizes
    assert (sizes.channels, sizes.heads, sizes.attention, sizes.shortcut) == (128, 8, "multihead", False)
    assert VWFormerHead(5, shortcut=False).sizes.shortcut is False and VWFormerHead(5).sizes.shortcut is True


@pytest.mark.parametrize("shortcut", [False, True])
def test_a_new_network_starts_with_windows_that_put_out_nothing_or_their_input(shortcut):
    head, x = VWFormerHead(5, shortcut=shortcut, **SMALL), features()

    def watched(module, _):
        return module.name in ("linear_fuse", "branches")

    @jax.jit
    def run(x):
        variables = head.init(jax.random.key(0), x)
        return head.apply(variables, x, train=True, mutable=["intermediates"], capture_intermediates=watched)[1]

    found = run(x)["intermediates"]
    (fused,), (branches,) = found["linear_fuse"]["__call__"], found["cat"]["branches"]["__call__"]
    short, pool, *windows = jnp.split(branches, 5, axis=-1)
    assert short.std() > 0 and pool.std() > 0 and fused.std() > 0
    for y in windows:
        np.testing.assert_array_equal(y, fused if shortcut else jnp.zeros_like(fused))


def test_sites_in_running_order_and_their_branches():
    found = find_sites(VWFormerHead(5, equalizer=Equalizer("explicit"), **SMALL), shapes((6, 8, 10, 12)))
    assert [(site.name, site.equalized, list(site.branches)) for site in found] == [
        ("mla", True, ["0_level3", "1_level2", "2_level1"]),
        ("branches", False, ["0_short_path", "1_image_pool", "2_ratio2", "3_ratio4", "4_ratio8"]),
        ("lle", True, ["0_fused", "1_level0"]),
    ]


@pytest.mark.parametrize("variant", ["light", "cityscapes"])
def test_every_site_folds(variant):
    head = VWFormerHead(5, variant=variant, equalizer=Equalizer("explicit", sites=("mla", "branches", "lle")), **SMALL)
    x = features(batch=1)
    variables = tiny.fill(tiny.shapes(head, x))
    expected = jax.jit(head.apply)(variables, x)["logits"]
    folded = head.clone(equalizer=Equalizer("folded", sites=("mla", "branches", "lle")))
    logits = jax.jit(folded.apply)(fold(variables), x)["logits"]
    assert jnp.abs(logits - expected).max() <= 1e-5 * expected.std()


def test_the_branches_of_a_new_network_without_shortcut_cannot_be_equalized():
    head = VWFormerHead(tiny.CLASSES, shortcut=False, **SMALL)
    model = Segmenter(ResNet(10, width=4, output_stride=32), head)
    model = model.with_equalizer(mode="explicit", sites=("mla", "branches", "lle"))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 128, 128, 3)))
    with pytest.raises(ValueError, match="site 'branches', branch 'ratio2'.*no variance.*leave 'branches' out"):
        calibrate.calibrate(model, variables, lambda: [{"image": tiny.images(2, 128)}])


class Witness:
    """The two heads of the authors, written anew in PyTorch: windows one by one, as padded and cut there."""

    def __init__(self, torch, tensors, variant, heads, shortcut):
        self.torch, self.f = torch, torch.nn.functional
        self.tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
        self.city, self.heads, self.shortcut = variant == "cityscapes", heads, shortcut

    def block(self, name, x, relu=True):
        get = self.tensors.get
        x = self.f.conv2d(x, get(f"{name}.conv.weight"), get(f"{name}.conv.bias"))
        if f"{name}.bn.weight" in self.tensors:
            statistics = (get(f"{name}.bn.{part}") for part in ("running_mean", "running_var", "weight", "bias"))
            x = self.f.batch_norm(x, *statistics)
        return x.relu() if relu else x

    def level(self, index, x):
        if self.city:
            return self.block(f"linear_c{index}", x)
        weight, bias = (self.tensors[f"linear_c{index}.proj.{part}"] for part in ("weight", "bias"))
        return self.f.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)

    def upsample(self, x, size, nearest=False):
        options = {"mode": "nearest"} if nearest else {"mode": "bilinear", "align_corners": False}
        return self.f.interpolate(x, size=size, **options)

    def shifted(self, x, ratio, axis):
        length = x.shape[axis]
        side = length // 8
        near, far = (ratio + 1) * side // 2, ratio * side
        parts = x.narrow(axis, near, far - near), x, x.narrow(axis, length - far, far - near)
        return self.torch.cat(parts, axis)

    def attend(self, index, query, context):
        """[pixels, c] to [tokens, c]."""
        if self.city:
            module = self.torch.nn.MultiheadAttention(query.shape[1], self.heads)
            own = {name[len(f"attn.{index}.") :]: t for name, t in self.tensors.items() if f"attn.{index}." in name}
            module.load_state_dict(own)
            return module(query[:, None], context[:, None], context[:, None])[0][:, 0]

        def project(name, x):
            return self.block(f"attn.{index}.{name}", x.T[None, :, :, None], relu=False)[0, :, :, 0].T

        parts = (project(*of).chunk(self.heads, 1) for of in (("theta", query), ("phi", context), ("g", context)))
        y = [self.f.softmax(q @ k.T / q.shape[1] ** 0.5, -1) @ v for q, k, v in zip(*parts, strict=True)]
        return project("conv_out", self.torch.cat(y, 1))

    def windows(self, index, x, ratio):
        pads = (ratio // 2 - 1, ratio // 2) * 2
        context = self.block(f"ds.{index}", self.f.pad(x, pads))
        context = self.shifted(self.shifted(context, ratio, 3), ratio, 2)
        height, width = (length // 8 for length in x.shape[2:])
        y = self.torch.empty_like(x)
        for b, i, j in np.ndindex(len(x), 8, 8):
            here = (b, slice(None), slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
            seen = context[b, :, i * height :, j * width :][:, : ratio * height, : ratio * width]
            tokens = [
                seen[:, r : r + ratio, c : c + ratio].permute(1, 2, 0).flatten()
                for r in range(0, ratio * height, ratio)
                for c in range(0, ratio * width, ratio)
            ]
            attended = self.attend(index, x[here].flatten(1).T, self.torch.stack(tokens))
            y[here] = attended.T.reshape(-1, height, width)
        return y + x if self.shortcut else y

    def __call__(self, features):
        c1, c2, c3, c4 = (self.torch.from_numpy(np.array(x)).permute(0, 3, 1, 2) for x in features)
        size = c2.shape[2:]
        levels = [self.upsample(self.level(i, c), size, self.city) for i, c in ((4, c4), (3, c3), (2, c2))]
        x = self.block("linear_fuse", self.torch.cat(levels, 1))
        branches = [self.block("short_path", x)]
        if not self.city:
            pool = self.block("image_pool.1", x.mean((2, 3), keepdim=True))
            branches.append(self.upsample(pool, size))
        branches += [self.windows(i, x, ratio) for i, ratio in enumerate((2, 4, 8))]
        x = self.block("cat", self.torch.cat(branches, 1))
        x = self.block("low_level_fuse", self.torch.cat([self.upsample(x, c1.shape[2:]), self.level(1, c1)], 1))
        x = self.f.conv2d(x, self.tensors["conv_seg.weight"], self.tensors["conv_seg.bias"])
        return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("variant", "heads", "shortcut", "size"),
    # windows of 4 x 6 pixels, of 3 x 2, of 8 x 8 whose contexts of ratio 8 are shared
    [("ade", 1, True, (256, 384)), ("ade", 4, False, (192, 128)), ("cityscapes", 4, False, (512, 512))],
)
def test_equals_a_witness_in_pytorch(variant, heads, shortcut, size):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-bench.txt)")
    head = VWFormerHead(5, variant=variant, channels=64, heads=heads, shortcut=shortcut)
    x = features(height=size[0], width=size[1], batch=1)
    template = jax.eval_shape(head.init, jax.random.key(0), x)
    tensors = checkpoint(variant)
    variables = import_weights(head, tensors, template)
    with torch.no_grad():
        expected = Witness(torch, tensors, variant, heads, shortcut)(x)
    np.testing.assert_allclose(jax.jit(head.apply)(variables, x)["logits"], expected, atol=2e-5 * expected.std())


def checkpoint(variant):
    """Tensors of a checkpoint, at random, of a spread that keeps activations near 1."""
    from tests.importers import recorded

    def scaled(name, tensor):
        if name.endswith("running_var"):
            return 0.5 + np.abs(tensor)
        fan_in = np.prod(tensor.shape[1:])
        return tensor * (np.sqrt(2 / fan_in) if tensor.ndim > 1 else 0.3) + (".bn.weight" in name)

    return {name: scaled(name, t).astype(np.float32) for name, t in recorded.tensors(f"vwformer_{variant}").items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 100}, "channels is 100; expected a multiple of 64.*e.g. 128"),
        ({"channels": 64, "heads": 3}, "heads is 3; expected a divisor of its channels 64"),
        ({"variant": "b0"}, "variant is 'b0'; expected one of ade, cityscapes, light"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VWFormerHead(5, **options)


@pytest.mark.parametrize(
    ("size", "train", "message"),
    [
        (
            (256, 360),
            False,
            "256 x 360; expected.* multiples of 64.*works is 256 x 384.*eval.size_multiple to 64",
        ),
        ((192, 256), True, "192 x 256.*multiples of 128 in training.*even sides.*works is 256 x 256: set data.crop"),
        ((65, 33), False, "works is 128 x 64"),
    ],
)
def test_sizes_that_cannot_be_cut_into_windows_are_refused(size, train, message):
    head = VWFormerHead(5, **SMALL)
    x = [jnp.zeros((1, *(-(-side // stride) for side in size), 8)) for stride in (4, 8, 16, 32)]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: head.init(jax.random.key(0), x, train), x)


def test_features_of_other_strides_are_refused():
    x = [jnp.zeros((1, 64 // stride, 64 // stride, 8)) for stride in (1, 4, 8, 16)]
    with pytest.raises(ValueError, match="64 x 64, 16 x 16.*expected four, the first of stride 4"):
        jax.eval_shape(lambda x: VWFormerHead(5).init(jax.random.key(0), x), x)
