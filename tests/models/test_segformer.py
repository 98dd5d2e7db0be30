"""SegformerHead: published sizes, its fusion site, and that the site folds into the block behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.equalizer.fold import fold
from se_jax.equalizer.fusion import Equalizer
from se_jax.equalizer.sites import find_sites
from se_jax.importers import import_weights
from se_jax.models.decoders import SegformerHead
from tests import tiny
from tests.conftest import assert_close_to_reference


def features(channels=(4, 6, 8, 10)):
    """Maps of an odd image, of strides 4, 8, 16 and 32."""
    rng = np.random.default_rng(0)
    sizes = ((17, 13), (9, 7), (5, 4), (3, 2))
    return [jnp.asarray(rng.normal(0.5, 1, (2, *s, c)), jnp.float32) for s, c in zip(sizes, channels, strict=True)]


@pytest.mark.usefixtures("platform_form")
def test_equals_the_reference(golden):
    case = golden("head_segformer_odd_ac0")
    inputs = [case[f"in/{i}"].transpose(0, 2, 3, 1) for i in range(4)]
    head = SegformerHead(case.meta["kwargs"]["num_classes"], channels=case.meta["kwargs"]["channels"])
    variables = import_weights(head, case.group("sd"), jax.eval_shape(head.init, jax.random.key(0), inputs))
    assert_close_to_reference(jax.jit(head.apply)(variables, inputs)["logits"], case["out/0"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("channels", "classes", "millions"),
    [((32, 64, 160, 256), 150, 0.43), ((64, 128, 320, 512), 150, 0.57), ((32, 64, 160, 256), 19, 0.40)],
)
def test_parameter_count_is_the_published_one(channels, classes, millions):
    params = jax.eval_shape(SegformerHead(classes).init, jax.random.key(0), features(channels))["params"]
    assert round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 2) == millions


def test_its_one_site_holds_the_four_levels_finest_first():
    head = SegformerHead(5, channels=8, equalizer=Equalizer("explicit"))
    (site,) = find_sites(head, features())
    assert site.path == ("fusion_conv", "fusion") and site.equalized
    assert list(site.branches) == ["0_level0", "1_level1", "2_level2", "3_level3"]


@pytest.mark.parametrize("statistics", ["global", "channel"])
def test_folded_head_equals_explicit_head(statistics):
    head = SegformerHead(5, channels=8, equalizer=Equalizer("explicit", statistics))
    x, rng = features(), np.random.default_rng(1)

    def draw(path, leaf):
        positive = path[-1].key in ("scale", "var", "std")
        return np.float32(rng.uniform(0.2, 2, leaf.shape) if positive else rng.normal(0, 0.5, leaf.shape))

    variables = jax.tree.map_with_path(draw, tiny.shapes(head, x))
    expected = jax.jit(head.apply)(variables, x)["logits"]
    folded_variables = fold(variables)
    folded = jax.jit(head.clone(equalizer=Equalizer("folded", statistics)).apply)(folded_variables, x)["logits"]
    assert jnp.abs(folded - expected).max() <= 1e-5 * expected.std()
    plain = jax.jit(head.clone(equalizer=Equalizer()).apply)(folded_variables, x)["logits"]
    assert jnp.abs(plain - expected).max() > 1e-2 * expected.std()
