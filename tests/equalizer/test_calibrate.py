"""Calibration measures exactly, in the order in which sites run, and changes nothing else."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_jax.config.normalization import INCEPTION
from se_jax.equalizer import calibrate
from se_jax.equalizer.fusion import Equalizer, Fusion, FusionConv
from se_jax.equalizer.sites import find_sites
from se_jax.models import FCNHead
from se_jax.models.layers import ConvBlock
from se_jax.models.segmenter import normalize
from tests import tiny
from tests.conftest import assert_close_to_reference


def batches(side=65, first=0):
    return [{"image": tiny.images(8, side, seed)} for seed in range(first, first + 2)]


BATCHES = batches()


def fresh(model):
    """Variables as training starts from them; no channel is dead."""
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 65, 65, 3)))


def uncalibrated(model, side=65):
    """The same without the compilation of random numbers: values of tiny.init's."""
    return tiny.init(model.with_equalizer(mode="none"), side)


def equalized_sites(model, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return [site.name for site in find_sites(model, images) if site.equalized]


def fresh_batches(side=65):
    return batches(side, first=10)


def calibrate_on_eight_devices(model, variables, batches):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(batches, jax.NamedSharding(mesh, jax.P("data")))
    after, rows = calibrate.calibrate(
        model, jax.device_put(variables, jax.NamedSharding(mesh, jax.P())), lambda: split, mesh=mesh
    )
    return jax.device_get(after), rows


@pytest.fixture(scope="module", params=tiny.HEADS)
def calibrated(request):
    """(explicit network, its variables before and after calibration on eight devices, the rows measured, side)."""
    model, side = tiny.network(request.param, "explicit"), tiny.sides(request.param)[0]
    variables = uncalibrated(model, side)
    return model, variables, *calibrate_on_eight_devices(model, variables, batches(side)), side


def test_every_branch_of_every_site_is_measured_in_running_order(calibrated):
    model, _, _, rows, side = calibrated
    equalized = equalized_sites(model, side)
    assert list(dict.fromkeys(row.site for row in rows)) == equalized
    for site in equalized:
        assert max(row.ratio for row in rows if row.site == site) == 1.0


def test_nothing_but_the_equalizer_changes(calibrated):
    _, before, after, _, _ = calibrated
    for collection in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, before[collection], after[collection])


def test_equalized_branches_have_mean_0_and_std_1(calibrated):
    """On one device: of the images that eight have measured to float32's rounding, of others to the sampling error."""
    model, _, after, _, side = calibrated
    equalized = equalized_sites(model, side)
    programs = []

    def jit(function):  # both passes run the program of the first
        programs.append(jax.jit(function))
        return programs[0]

    # a pooled 1x1 branch of fresh images has no more than 16 images x 8 channels of values
    for images, error in ((batches(side), 1e-5), (fresh_batches(side), 0.3)):
        for row in calibrate.measure(model, after, lambda images=images: images, jit=jit):
            if row.site in equalized:
                assert abs(row.mean) < error
                assert abs(row.std - 1) < error


@pytest.mark.parametrize("head", ["dupsampling", "psp", "vwformer"])
def test_eight_devices_measure_what_one_measures(head):
    model, side = tiny.network(head, "explicit"), tiny.sides(head)[0]
    variables = uncalibrated(model, side)
    _, rows = calibrate.calibrate(model, variables, lambda: batches(side))
    _, sharded_rows = calibrate_on_eight_devices(model, variables, batches(side))
    for one, eight in zip(rows, sharded_rows, strict=True):
        assert (one.site, one.branch) == (eight.site, eight.branch)
        np.testing.assert_allclose(eight.std, one.std, rtol=3e-6)
        np.testing.assert_allclose(eight.mean, one.mean, rtol=1e-6, atol=1e-6 * one.std)  # behind BatchNorm it is 0


@settings(max_examples=30, deadline=None)
@given(data=st.data(), channels=st.integers(1, 4), offset=st.sampled_from([0.0, 1e3]))
def test_moments_do_not_depend_on_the_grouping(data, channels, offset):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    values = rng.normal(offset, 1, (24, channels))
    cuts = sorted(data.draw(st.sets(st.integers(1, 23), max_size=5)))
    moments = calibrate.Moments()
    for group in np.split(values, cuts):
        moments.merge(len(group), group.mean(0), ((group - group.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(moments.whole(), (values.mean(), values.std()), rtol=1e-12)
    np.testing.assert_allclose(moments.channel(), (values.mean(0), values.std(0)), rtol=1e-12)


def test_statistics_are_those_of_the_resized_branches():
    """Against numpy in float64, on what a plain PSPHead concatenates."""
    model = tiny.network("psp", "explicit").clone(normalization=INCEPTION)
    variables = fresh(model)
    _, rows = calibrate.calibrate(model, variables, lambda: BATCHES[:1])

    def concatenated(module, _):
        return module.name == "ppm"

    forward = functools.partial(
        model.with_equalizer(mode="none").apply,
        train=True,
        mutable=["intermediates"],
        capture_intermediates=concatenated,
    )
    _, state = jax.jit(forward)(variables, model.normalize(jnp.asarray(BATCHES[0]["image"])))
    fused = np.asarray(jax.tree.leaves(state["intermediates"])[0], np.float64)
    widths = [64] + [8] * 4
    for row, branch in zip(rows, np.split(fused, np.cumsum(widths)[:-1], axis=-1), strict=True):
        np.testing.assert_allclose((row.mean, row.std), (branch.mean(), branch.std()), rtol=2e-6)


def test_filler_images_are_not_measured():
    """The filler takes part in the batch's BatchNorm, as it must in any batch, but not in the moments."""
    model = tiny.network("fcn", "explicit")
    variables = uncalibrated(model)
    image = tiny.images(8)
    valid = np.arange(8) < 5
    filled = {"image": image, "valid": valid}
    _, rows = calibrate.calibrate(model, variables, lambda: [filled])
    forward = jax.jit(functools.partial(model.apply, train=True, mutable=["moments"]))
    _, updates = forward(variables, normalize(jnp.asarray(image)))
    level0 = updates["moments"]["decoder"]["convs_0"]["resize_concat"]["0_level0"]
    np.testing.assert_allclose(rows[0].mean, np.mean(level0["mean"][valid]), rtol=1e-6)


def test_channel_statistics_normalise_each_channel():
    model = tiny.network("fcn", "explicit", statistics="channel")
    variables = fresh(model)
    after, _ = calibrate.calibrate(model, variables, lambda: BATCHES)
    site = after["equalizer"]["decoder"]["convs_0"]["resize_concat"]
    assert np.ptp(site["3_level3"]["std"]) > 0
    assert all(abs(row.std - 1) < 1e-4 for row in calibrate.measure(model, after, lambda: BATCHES))


def test_equalize_prepares_every_mode():
    variables = uncalibrated(tiny.network("psp"))
    images = normalize(jnp.asarray(tiny.images(seed=5)))
    logits = {}
    for mode in ("none", "explicit", "folded"):
        model = tiny.network("psp", mode)
        ready, rows = calibrate.equalize(model, variables, lambda: BATCHES, fresh=fresh_batches)
        assert ("equalizer" in ready) == (mode == "explicit")
        assert bool(rows) == (mode != "none")
        assert all(abs(row.checked_mean) < 0.3 and abs(row.checked_std - 1) < 0.3 for row in rows)
        logits[mode] = jax.jit(model.apply)(ready, images)["logits"]
    assert jnp.abs(logits["explicit"] - logits["folded"]).max() <= 1e-5 * logits["explicit"].std()
    assert jnp.abs(logits["explicit"] - logits["none"]).max() > 1e-3 * logits["none"].std()


def test_dead_branch_is_named():
    model = tiny.network("psp", "explicit")
    variables = uncalibrated(model)
    norm = variables["params"]["decoder"]["psp_modules_2"]["bn"]
    norm.update(jax.tree.map(jnp.zeros_like, norm))
    with pytest.raises(ValueError, match="site 'ppm', branch 'pool3'.*no variance"):
        calibrate.calibrate(model, variables, lambda: BATCHES)


def test_non_finite_branch_is_named():
    model = tiny.network("aspp", "explicit")
    variables = uncalibrated(model)
    bias = variables["params"]["decoder"]["aspp_modules_1"]["bn"]["bias"]
    variables["params"]["decoder"]["aspp_modules_1"]["bn"]["bias"] = bias.at[0].set(jnp.nan)
    with pytest.raises(ValueError, match="site 'aspp', branch 'dilation2'.*not finite"):
        calibrate.calibrate(model, variables, lambda: BATCHES)


def test_no_images_is_an_error():
    model = tiny.network("aspp", "explicit")
    variables = uncalibrated(model)
    with pytest.raises(ValueError, match="no batch of images"):
        calibrate.calibrate(model, variables, lambda: [])


def test_table(calibrated):
    _, _, _, rows, _ = calibrated
    text = calibrate.table(rows)
    assert len(text.splitlines()) == len(rows) + 1
    assert all(row.branch in text for row in rows)


# ---- Any Linen module ----


class UNet(nn.Module):
    """A user's own network: two levels down, two concatenations up, one of them a bare Fusion."""

    equalizer: Equalizer = Equalizer("explicit")
    summed: bool = False

    @nn.compact
    def __call__(self, x, train: bool = False):
        fine = ConvBlock(4, name="fine")(x, train)
        middle = ConvBlock(6, strides=2, name="middle")(fine, train)
        coarse = ConvBlock(8, strides=2, name="coarse")(middle, train)
        up = FusionConv("up1", 6, equalizer=self.equalizer, name="merge1")
        x = up({"skip": middle, "below": coarse}, middle.shape[1:3], train)
        if self.summed:
            x = ConvBlock(4, 1, name="project")(x, train)
            return Fusion(self.equalizer, "sum", name="up0")({"skip": fine, "below": x}, fine.shape[1:3])
        up = FusionConv("up0", 4, equalizer=self.equalizer, name="merge0")
        return up({"skip": fine, "below": x}, fine.shape[1:3], train)


def unet_batches(seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(1.0, 2.0, (4, 16, 16, 3)).cumsum(1), jnp.float32) for _ in range(2)]


def test_a_users_own_network_is_calibrated_checked_and_folded():
    network = UNet()
    variables = jax.jit(network.init)(jax.random.key(0), unet_batches()[0])
    assert "equalizer" not in variables
    ready, rows = calibrate.equalize(network, variables, unet_batches, fresh=functools.partial(unet_batches, 1))
    assert [(row.site, row.branch) for row in rows] == [
        ("up1", "skip"),
        ("up1", "below"),
        ("up0", "skip"),
        ("up0", "below"),
    ]
    assert all(abs(row.checked_mean) < 0.2 and abs(row.checked_std - 1) < 0.2 for row in rows)
    folded, again = calibrate.equalize(UNet(Equalizer("folded")), variables, unet_batches)
    assert [row.std for row in again] == [row.std for row in rows] and "equalizer" not in folded
    images = unet_batches(2)[0]
    explicit = jax.jit(network.apply)(ready, images)
    assert_close_to_reference(jax.jit(UNet(Equalizer("folded")).apply)(folded, images), explicit, 2e-5)
    plain = jax.jit(UNet(Equalizer()).apply)(variables, images)
    assert jnp.abs(plain - explicit).max() > 1e-2
    assert calibrate.equalize(UNet(Equalizer()), variables, unet_batches) == (variables, [])


def test_a_head_that_takes_a_tuple_of_maps_is_calibrated_by_itself():
    """The number of maps, two, is not that of images, three."""
    head = FCNHead(
        3,
        4,
        in_index=0,
        num_convs=1,
        kernel_size=1,
        concat_input=False,
        resize_concat=True,
        equalizer=Equalizer("explicit"),
    )
    rng = np.random.default_rng(0)
    maps = tuple(np.float32(scale * rng.normal(size=(3, side, side, 2))) for side, scale in ((8, 1.0), (4, 5.0)))
    _, rows = calibrate.calibrate(head, head.init(jax.random.key(0), maps), lambda: [(maps,)] * 2)
    np.testing.assert_allclose([rows[0].mean, rows[0].std], [maps[0].mean(), maps[0].std()], rtol=1e-5)


def test_a_site_that_cannot_be_folded_is_named():
    network = UNet(summed=True)
    variables = jax.jit(network.init)(jax.random.key(0), unet_batches()[0])
    assert [row.site for row in calibrate.equalize(network, variables, unet_batches)[1]] == ["up1", "up1", "up0", "up0"]
    with pytest.raises(ValueError, match=r"fusion site 'up0' \(up0\) cannot be folded: its branches are summed"):
        calibrate.equalize(UNet(Equalizer("folded"), summed=True), variables, unet_batches)


def test_a_network_whose_mode_cannot_be_changed_says_what_it_lacks():
    class Closed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return FusionConv("site", 4, equalizer=Equalizer("folded"))({"a": x, "b": x[:, ::2, ::2]}, x.shape[1:3])

    variables = jax.jit(Closed().init)(jax.random.key(0), unet_batches()[0])
    with pytest.raises(ValueError, match="Closed has no field `equalizer`.*declare"):
        calibrate.equalize(Closed(), variables, unet_batches)
