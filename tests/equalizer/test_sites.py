"""Fusion sites are found by tracing a module, in running order, and options that fit none are named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.equalizer.fusion import Equalizer, Fusion, FusionConv
from se_jax.equalizer.sites import check_sites, find_sites, identity_statistics
from tests import tiny

IMAGES = jax.ShapeDtypeStruct((2, 65, 65, 3), jnp.float32)


class Neck(nn.Module):
    """A user's own module: the site that its name would sort first runs last."""

    equalizer: Equalizer = Equalizer("explicit")
    times: int = 1

    @nn.compact
    def __call__(self, fine, coarse):
        size = fine.shape[1:3]
        x = FusionConv("inner", 4, equalizer=self.equalizer, name="z")({"fine": fine, "coarse": coarse}, size)
        fuse = Fusion(self.equalizer, "sum", default=False, name="a")
        for _ in range(self.times):
            x = fuse({"x": x, "coarse": coarse[..., :4]}, size)
        return x


MAPS = [jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((2, 4, 4, 5), jnp.float32)]


def names(module, *inputs, equalized=False):
    return [site.name for site in find_sites(module, *inputs) if site.equalized or not equalized]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("uper", ["ppm", "topdown_2", "topdown_1", "topdown_0", "fpn"]),
        ("sep_aspp", ["aspp", "c1"]),
        ("vwformer", ["mla", "branches", "lle"]),
        ("mask2former", ["fpn"]),
        ("vw_mask2former", ["mla", "branches", "lle"]),
        (
            "eseg",
            ["extra", *(f"topdown_0_{i}" for i in (6, 5, 4, 3, 2)), *(f"bottomup_0_{i}" for i in range(3, 8)), "sum"],
        ),
        ("fcn", ["resize_concat"]),
    ],
)
def test_sites_are_found_in_running_order(head, expected):
    side = tiny.sides(head)[0]
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    assert names(tiny.network(head, "explicit"), images) == expected
    assert names(tiny.network(head), images) == expected  # also of a plain network


def test_sites_of_a_users_own_module():
    inner, a = find_sites(Neck(), *MAPS)
    assert inner == (("z", "inner"), {"0_fine": 3, "1_coarse": 5}, True, "explicit", False)
    assert a == (("a",), {"0_x": 4, "1_coarse": 4}, False, "explicit", False)
    assert (inner.name, a.name) == ("inner", "a")


def test_arrays_do_as_well_as_shapes_and_nothing_is_computed():
    ours = [jnp.full(x.shape, jnp.nan) for x in MAPS]
    with jax.debug_nans(True):
        assert find_sites(Neck(), *ours) == find_sites(Neck(), *MAPS)


@pytest.mark.parametrize("mode", ["none", "explicit", "folded"])
def test_the_equalizer_selects_sites_in_whatever_mode(mode):
    found = find_sites(Neck(Equalizer(mode, "channel", sites=("a",))), *MAPS)
    assert [site.equalized for site in found] == [False, mode != "none"]
    assert {(site.mode, site.per_channel) for site in found} == {(mode, True)}
    assert names(tiny.network("uper", mode, sites=("topdown_*", "fpn")), IMAGES, equalized=True) == (
        [] if mode == "none" else ["topdown_2", "topdown_1", "topdown_0", "fpn"]
    )


def test_a_module_that_fuses_nothing_has_no_sites():
    assert find_sites(nn.Dense(3), MAPS[0]) == []


def test_a_site_that_runs_twice_in_one_pass_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="fusion site 'a' runs twice in one pass.*a Fusion module of its own"):
        find_sites(Neck(times=2), *MAPS)


# ---- What cannot be ----


def check(module, equalizer):
    check_sites(find_sites(module.clone(equalizer=equalizer), *MAPS), equalizer, "the neck")


def test_names_that_no_site_has_are_refused_with_those_that_there_are():
    message = r"equalizer.sites names b, c, which the neck does not have; its fusion sites: inner, a$"
    with pytest.raises(ValueError, match=message):
        check(Neck(), Equalizer("explicit", sites=("c", "inner", "b")))
    with pytest.raises(ValueError, match="its fusion sites: none"):
        check_sites([], Equalizer("none", sites=("fpn",)), "decoder 'fcn'")


def test_patterns_need_one_site_that_they_fit():
    check(Neck(), Equalizer("explicit", sites=("inn*",)))
    with pytest.raises(ValueError, match=r"names topdown_\*, which"):
        check(Neck(), Equalizer("explicit", sites=("inner", "topdown_*")))


def test_an_equalizer_that_equalizes_nothing_is_refused():
    class Sum(nn.Module):
        equalizer: Equalizer = Equalizer()

        @nn.compact
        def __call__(self, *maps):
            fuse = Fusion(self.equalizer, "sum", default=False, name="only")
            return fuse({"a": maps[0], "b": maps[0]}, (8, 8))

    for mode in ("explicit", "folded"):
        with pytest.raises(ValueError, match=f"mode is '{mode}', but the neck.*name one of only in equalizer.sites"):
            check(Sum(), Equalizer(mode))
        check(Sum(), Equalizer(mode, sites=("only",)))
    check(Sum(), Equalizer("none"))
    with pytest.raises(ValueError, match="by default, or set equalizer.mode to 'none'"):
        check_sites([], Equalizer("explicit"), "decoder 'fcn'")


# ---- Statistics that change nothing ----


def test_identity_statistics_have_the_shapes_of_the_equalized_branches():
    statistics = identity_statistics(find_sites(Neck(), *MAPS))
    assert jax.tree.map(jnp.shape, statistics) == {
        "z": {"inner": {"0_fine": {"mean": (3,), "std": (3,)}, "1_coarse": {"mean": (5,), "std": (5,)}}}
    }
    every = identity_statistics(find_sites(Neck(Equalizer("explicit", sites=("*",))), *MAPS))
    assert every.keys() == {"z", "a"}
    for mode in ("none", "folded"):
        assert identity_statistics(find_sites(Neck(Equalizer(mode)), *MAPS)) == {}


def test_identity_statistics_equalize_nothing():
    model = Neck(Equalizer("explicit", sites=("*",)))
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.normal(2, 3, x.shape), jnp.float32) for x in MAPS]
    variables = model.init(jax.random.key(0), *maps)
    assert "equalizer" not in variables
    statistics = identity_statistics(find_sites(model, *maps))
    equalized = model.apply({**variables, "equalizer": statistics}, *maps)
    np.testing.assert_allclose(equalized, Neck(Equalizer()).apply(variables, *maps), rtol=1e-6, atol=1e-6)
