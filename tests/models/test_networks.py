"""What holds for every network: shapes, odd sizes, gradients, precision, saving, sites, folding; and `build`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from se_jax import checkpoints, parallel
from se_jax.config.optimizers import layer_decay
from se_jax.equalizer.fold import fold
from se_jax.equalizer.fusion import site_variables
from se_jax.equalizer.sites import check_sites, find_sites
from se_jax.importers import export_weights, import_weights, tables
from se_jax.models import ENCODERS, build
from se_jax.models.segmenter import normalize
from tests import tiny


def options(head="psp", **decoder):
    return ConfigDict(
        {
            "num_classes": 5,
            "dtype": "float32",
            "remat": False,
            "align_corners": False,
            "encoder": {"name": "resnet", "depth": 10, "width": 8, "output_stride": 8},
            "decoder": {"name": head, "channels": 8, **decoder},
            "auxiliary": {"in_index": 2, "channels": 8},
            "equalizer": {"mode": "none", "statistics": "global", "sites": "all"},
        }
    )


@pytest.fixture(scope="class", params=[*tiny.HEADS, *tiny.PLAIN_HEADS, *tiny.ENCODERS])
def network(request):
    model, sides = tiny.network(request.param, auxiliary=True), tiny.sides(request.param)
    return model, tiny.init(model, sides[0]), sides


class TestEveryNetwork:
    """Every head on a ResNet, and every other encoder under a SegFormer head."""

    @pytest.mark.usefixtures("accelerator_form")
    def test_features_are_what_the_encoder_declares(self, network):
        model, variables, _ = network
        encoder = {name: part["encoder"] for name, part in variables.items() if "encoder" in part}
        for size in ((64, 96), (65, 97), (97, 33)):
            size = tuple(-(-side // model.size_multiple) * model.size_multiple for side in size)
            images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
            maps = jax.eval_shape(model.encoder.apply, encoder, images)
            assert tuple(leaf.shape[-1] for leaf in maps) == tuple(model.encoder.channels)
            for finer, coarser in zip(maps, maps[1:], strict=False):
                assert finer.shape[1] >= coarser.shape[1] and finer.shape[2] >= coarser.shape[2]
            ratios = [round(side / length) for side, length in zip(size, maps[0].shape[1:3], strict=True)]
            assert ratios == [4, 4]

    def test_logits_at_even_and_odd_sizes_compile_once_each(self, network):
        model, variables, sides = network
        forward = jax.jit(model.apply)
        for size in (*sides, sides[0]):
            images = normalize(jnp.asarray(tiny.images(size=size)))
            outputs = forward(variables, images)
            maps = forward.eval_shape(variables, images)
            assert jax.tree.map(jnp.shape, outputs) == jax.tree.map(jnp.shape, maps)
            scores = jax.eval_shape(lambda outputs, size=size: model.scores(outputs, (size, size)), outputs)
            assert scores.shape == (2, size, size, tiny.CLASSES)
            for x in (*outputs.values(), scores):
                assert x.dtype == jnp.float32
            for x in jax.device_get(outputs).values():
                assert np.isfinite(x).all() and x.std() > 0
        assert forward._cache_size() == 2

    def test_every_parameter_gets_a_finite_gradient(self, network):
        model, variables, sides = network

        def loss(params, others, images):
            outputs, updates = model.apply(others | {"params": params}, images, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(x)) for x in outputs.values()), (outputs, updates)

        images = normalize(jnp.asarray(tiny.images(4, sides[0])))
        gradients = jax.jit(jax.grad(loss, has_aux=True))
        gradient, (outputs, updates) = jax.device_get(gradients(variables["params"], variables, images))
        for x in outputs.values():
            assert np.isfinite(x).all() and x.std() > 0
        for path, leaf in jax.tree.leaves_with_path(gradient):
            assert np.isfinite(leaf).all() and np.any(leaf != 0), jax.tree_util.keystr(path)
        old, new = (jax.device_get(tree.get("batch_stats", {})) for tree in (variables, updates))
        moved = jax.tree.map(lambda old, new: bool(np.any(old != new)), old, new)
        assert all(jax.tree.leaves(moved))

    @pytest.mark.usefixtures("accelerator_form")
    def test_sites_that_are_found_are_those_that_leave_moments(self, network):
        model, variables, sides = network
        images = jax.ShapeDtypeStruct((2, sides[0], sides[0], 3), jnp.float32)
        _, updates = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["moments"]), variables, images)
        found = {site.path: site.branches for site in find_sites(model, images)}
        assert found == {
            path: {key: moments["mean"].shape[-1] for key, moments in branches.items()}
            for path, branches in site_variables(updates.get("moments", {}))
        }

    @pytest.mark.usefixtures("accelerator_form")
    def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state(self, network):
        model, variables, sides = network
        rough = model.clone(
            encoder=model.encoder.clone(dtype=jnp.bfloat16),
            decoder=model.decoder.clone(dtype=jnp.bfloat16),
            auxiliary=None,
        )
        images = jax.ShapeDtypeStruct((2, sides[0], sides[0], 3), jnp.float32)
        outputs, born = jax.eval_shape(rough.init_with_output, jax.random.key(0), images)
        assert {leaf.dtype for leaf in jax.tree.leaves(born)} == {jnp.dtype("float32")}
        assert {x.dtype for x in outputs.values()} == {jnp.dtype("float32")}
        encoder = {name: part["encoder"] for name, part in born.items() if "encoder" in part}
        maps = jax.eval_shape(rough.encoder.apply, encoder, images)
        assert {leaf.dtype for leaf in maps} == {jnp.dtype("bfloat16")}

    def test_variables_are_saved_exported_and_loaded_bit_by_bit(self, network, tmp_path):
        model, variables, _ = network
        checkpoints.save_variables(tmp_path, variables)
        blank = jax.device_put(jax.tree.map(np.zeros_like, variables))
        for layout in tables.tables_of(model.encoder):
            loaded = import_weights(model, export_weights(model, variables, layout), blank, layout)
            assert_equal(loaded, variables)
        assert_equal(checkpoints.init_from(tmp_path, blank, model.constants), variables)

    def test_layer_decay_has_a_rate_for_every_stage_and_parameter(self, network):
        model, variables, _ = network
        family = next(name for name, kind in ENCODERS.items() if kind is type(model.encoder))
        rules = layer_decay(family, 0.5)
        found = {}
        for path, _ in jax.tree.leaves_with_path({"encoder": variables["params"]["encoder"]}):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[name] = next(rate for pattern, rate in rules if re.search(pattern, name))
        assert set(found.values()) == {0.5 ** (i + 1) for i in range(len(rules))}

    def test_sharding_rules_cover_every_parameter(self, network):
        assert not parallel.uncovered(network[1]["params"])


def assert_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for path, leaf in jax.tree.leaves_with_path(actual):
        np.testing.assert_array_equal(leaf, dict(jax.tree.leaves_with_path(expected))[path])


@pytest.mark.parametrize("encoder", tiny.ENCODERS)
def test_folded_equals_explicit_on_the_maps_of_every_encoder(encoder):
    explicit, size = tiny.network(encoder, "explicit"), tiny.sides(encoder)[0]
    variables = tiny.init(explicit, size)
    parts = {name: part["encoder"] for name, part in variables.items() if "encoder" in part}
    maps = jax.eval_shape(explicit.encoder.apply, parts, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    rng = np.random.default_rng(0)
    maps = tuple(rng.normal(size=x.shape).astype(np.float32) for x in maps)

    def logits(model, variables):
        head = {name: part["decoder"] for name, part in variables.items() if "decoder" in part}
        return jax.jit(model.decoder.apply)(head, maps)["logits"]

    expected = logits(explicit, variables)
    folded = logits(explicit.with_equalizer(mode="folded"), fold(variables))
    assert jnp.abs(folded - expected).max() <= 1e-5 * expected.std()


def test_dropout_needs_training_and_a_key():
    model = tiny.network("psp")
    variables = tiny.init(model)
    images = normalize(jnp.asarray(tiny.images(4)))

    @jax.jit
    def logits(key=None):
        rngs = {} if key is None else {"dropout": jax.random.key(key)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])[0]["logits"]

    np.testing.assert_array_equal(logits(), logits())
    assert jnp.any(logits(0) != logits())
    assert jnp.any(logits(0) != logits(1))


def test_bfloat16_is_close_to_float32():
    config = options("aspp", dilations=(1, 2, 4, 6))
    config.dtype = "bfloat16"
    model, exact = build(config), build(options("aspp", dilations=(1, 2, 4, 6)))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 65, 65, 3)))
    images = normalize(jnp.asarray(tiny.images()))
    rough, fine = (jax.jit(m.apply)(variables, images)["logits"] for m in (model, exact))
    assert 0 < jnp.abs(rough - fine).max() < 0.1 * fine.std()


def test_remat_changes_nothing_but_memory():
    config = options()
    plain, images = build(config), normalize(jnp.asarray(tiny.images()))
    config.remat = True
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    expected = jax.jit(plain.apply)(variables, images)["logits"]
    np.testing.assert_allclose(jax.jit(build(config).apply)(variables, images)["logits"], expected, atol=1e-5)


def test_normalize_makes_padding_zero():
    images = np.full((2, 4, 5, 3), 200, np.uint8)
    x = normalize(images, np.array([[4, 5], [2, 3]]))
    assert jnp.all(x[0] != 0)
    assert jnp.all(x[1, :2, :3] == x[0, :2, :3])
    assert jnp.all(x[1, 2:] == 0) and jnp.all(x[1, :, 3:] == 0)
    np.testing.assert_allclose(normalize(np.full((1, 1, 1, 3), 123.675))[0, 0, 0, 0], 0, atol=1e-6)


def test_batch_of_one_is_refused_where_its_variance_is_undefined():
    model = tiny.network("psp")
    variables = tiny.shapes(model, jax.ShapeDtypeStruct((2, 65, 65, 3), jnp.float32))
    images = jax.ShapeDtypeStruct((1, 65, 65, 3), jnp.float32)
    with pytest.raises(ValueError, match="psp_modules_0.*one value a channel.*at least 2 images"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]), variables, images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.name": "psq"}, "model.decoder.name is 'psq'; expected one of aspp, .*fcn, .*psp"),
        ({"encoder.name": "vgg"}, "model.encoder.name is 'vgg'; expected one of convnext, .*resnet"),
        ({"dtype": "float16"}, "model.dtype is 'float16'; expected one of float32, bfloat16"),
        ({"decoder.pool_sizes": (1, 2)}, "no option model.decoder.pool_sizes; did you mean model.decoder.pool_scales"),
        ({"equalizer.mode": "explicid"}, "equalizer.mode is 'explicid'; expected one of none, explicit, folded"),
    ],
)
def test_build_names_what_is_wrong(change, message):
    config = options()
    for key, value in change.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    with pytest.raises(ValueError, match=message):
        build(config)


def test_an_equalizer_without_a_site_is_refused():
    config = options("fcn")
    config.equalizer.mode = "explicit"
    with pytest.raises(ValueError, match="no site is equalized by default; name one of concat_input"):
        check(config)
    config.equalizer.sites = "concat_input"
    assert [site.name for site in check(config) if site.equalized] == ["concat_input"]


def test_a_site_that_the_network_does_not_have_is_named():
    config = options()
    config.equalizer.sites = "ppm,fpn"
    with pytest.raises(ValueError, match="equalizer.sites names fpn, which decoder 'psp' does not have.*ppm"):
        check(config)


def check(config):
    """The sites of the config's network, checked as training does."""
    model = build(config)
    found = find_sites(model, jax.ShapeDtypeStruct((2, 65, 65, 3), jnp.float32))
    check_sites(found, model.decoder.equalizer, f"decoder '{config.decoder.name}'")
    return found


def test_build_takes_lists_as_json_gives_them():
    config = options()
    config.decoder.pool_scales = [1, 2]
    assert build(config).decoder.pool_scales == (1, 2)
