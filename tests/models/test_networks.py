"""What holds for every head: shapes, odd sizes, gradients, precision, dropout, declared sites; and `build`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from se_jax.models import build
from se_jax.models.fusion import sites
from se_jax.models.segmenter import normalize
from tests import tiny


def options(head="psp", **decoder):
    return ConfigDict(
        {
            "num_classes": 5,
            "dtype": "float32",
            "remat": False,
            "align_corners": False,
            "encoder": {"name": "resnet", "depth": 18, "width": 8, "output_stride": 8},
            "decoder": {"name": head, "channels": 8, **decoder},
            "auxiliary": {"in_index": 2, "channels": 8},
            "equalizer": {"mode": "none", "statistics": "global", "sites": "all"},
        }
    )


@pytest.fixture(scope="module", params=tiny.HEADS)
def network(request):
    model = tiny.network(request.param, auxiliary=True)
    return model, tiny.init(model)


def test_logits_are_finite_at_even_and_odd_sizes(network):
    model, variables = network
    strides = {"sep_aspp": 4, "fcn": 4, "uper": 4}
    forward = jax.jit(model.apply)
    for size in (64, 65):
        logits = forward(variables, normalize(jnp.asarray(tiny.images(size=size))))["logits"]
        stride = next((s for name, s in strides.items() if type(tiny.HEADS[name][0]) is type(model.decoder)), 8)
        assert logits.shape == (2, -(-size // stride), -(-size // stride), tiny.CLASSES)
        assert logits.dtype == jnp.float32
        assert jnp.isfinite(logits).all()


def test_every_parameter_gets_a_finite_gradient(network):
    model, variables = network
    images = normalize(jnp.asarray(tiny.images(4)))

    @jax.jit
    def gradients(params):
        def loss(params):
            outputs, updates = model.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
            return sum(jnp.mean(jnp.square(logits)) for logits in outputs.values()), updates

        return jax.grad(loss, has_aux=True)(params)

    gradient, updates = gradients(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all() and jnp.any(leaf != 0), jax.tree_util.keystr(path)
    moved = jax.tree.map(lambda old, new: bool(jnp.any(old != new)), variables["batch_stats"], updates["batch_stats"])
    assert all(jax.tree.leaves(moved))


def test_declared_sites_are_the_traced_ones(network):
    model, variables = network
    images = jax.ShapeDtypeStruct((2, 65, 65, 3), jnp.float32)
    _, updates = jax.eval_shape(lambda v, x: model.apply(v, x, train=True, mutable=["moments"]), variables, images)
    assert {path[-1] for path, _ in sites(updates["moments"])} == set(model.sites)


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


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state():
    config = options("aspp", dilations=(1, 2, 4, 6))
    config.dtype = "bfloat16"
    model, exact = build(config), build(options("aspp", dilations=(1, 2, 4, 6)))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, 65, 65, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    images = normalize(jnp.asarray(tiny.images()))
    rough, fine = (jax.jit(m.apply)(variables, images)["logits"] for m in (model, exact))
    assert rough.dtype == jnp.float32
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
    with pytest.raises(ValueError, match="psp_modules_0.*one value a channel.*at least 2 images"):
        model.apply(tiny.init(model), jnp.zeros((1, 65, 65, 3)), train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder.name": "psq"}, "model.decoder.name is 'psq'; expected one of aspp, fcn, psp"),
        ({"encoder.name": "vgg"}, "model.encoder.name is 'vgg'; expected one of resnet"),
        ({"dtype": "float16"}, "model.dtype is 'float16'; expected one of float32, bfloat16"),
        ({"decoder.pool_sizes": (1, 2)}, "model.decoder has unknown options pool_sizes; PSPHead takes .*pool_scales"),
        ({"equalizer.sites": "ppm,fpn"}, "equalizer.sites names fpn, which decoder 'psp' does not have.*ppm"),
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
        build(config)
    config.equalizer.sites = "concat_input"
    assert build(config).equalized_sites == ("concat_input",)


def test_build_takes_lists_as_json_gives_them():
    config = options()
    config.decoder.pool_scales = [1, 2]
    assert build(config).decoder.pool_scales == (1, 2)
