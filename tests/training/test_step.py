"""The training step against the PyTorch reference, and on several devices and in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax import losses, parallel
from se_jax.config import datasets, options
from se_jax.evaluation.metrics import Accuracy
from se_jax.importers import import_weights
from se_jax.models import FCNHead, PSPHead, ResNet, Segmenter, build
from se_jax.training import optimizers, state
from se_jax.training.step import make_train_step, stream
from tests import tiny


def step_config():
    """What the reference's tiny case was trained with."""
    config = options.get_config()
    config.num_steps = 11
    config.optimizer.min_learning_rate = 0.0
    config.loss.average = "all"
    return config


@pytest.fixture(scope="module")
def reference(golden):
    """The reference's network, its variables, its three batches, and the case itself."""
    case = golden("train_sgd_tiny")
    model = Segmenter(
        ResNet(depth=18, width=8),
        PSPHead(num_classes=5, channels=16, dropout=0.0),
        FCNHead(num_classes=5, channels=8, in_index=2, num_convs=1, concat_input=False, dropout=0.0),
    )
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    batches = []
    for step in range(3):
        pictures = [case[f"in/{step}/img_bgr_u8/{i}"][..., ::-1] for i in range(2)]
        sizes = np.array([p.shape[:2] for p in pictures], np.int32)
        padded = [np.pad(p, ((0, 64 - h), (0, 64 - w), (0, 0))) for p, (h, w) in zip(pictures, sizes, strict=True)]
        batches.append({"image": np.stack(padded), "size": sizes, "label": case[f"in/{step}/label"]})
    return model, template, batches, case


def trained(model, variables, batches, config, devices=1, jit=parallel.jit_once):
    """(state after each batch, what each step measured), on the given number of devices; compiled fast, not well."""
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    tx, schedule = optimizers.build(config.optimizer, config.num_steps)
    current = jax.device_put(state.create(variables, tx), parallel.replicated(mesh))
    step = jit(make_train_step(model, tx, schedule, config, losses.build(config.loss, model), (Accuracy(),)))
    states, measured = [], []
    for batch in batches:
        current, values = step(current, parallel.shard_batch(mesh, batch))
        states.append(current)
        measured.append(numbers(jax.device_get(values)))
    return states, measured


def numbers(measured):
    """What a step measured, with the metrics computed."""
    (state,) = measured.pop("metrics")
    return measured | Accuracy().compute(state)


def largest_error(actual, expected):
    """max over the leaves of max|difference| / std of the expected leaf."""

    def error(a, e):
        return np.abs(np.asarray(a) - np.asarray(e)).max() / max(np.std(e), 1e-8)

    return max(jax.tree.leaves(jax.tree.map(error, actual, expected)))


@pytest.mark.usefixtures("platform_form")
def test_three_steps_of_sgd_are_the_references(reference):
    model, template, batches, case = reference
    before = import_weights(model, case.group("sd"), template)
    states, measured = trained(model, before, batches, step_config(), jit=parallel.jit)

    for ours, theirs in zip(measured, case.meta["history"], strict=True):
        np.testing.assert_allclose(ours["learning_rate"], theirs["lr"], rtol=1e-6)
        np.testing.assert_allclose(ours["loss"], theirs["total"], rtol=5e-6)
        np.testing.assert_allclose(ours["loss_decoder"], theirs["decode.loss_ce"], rtol=5e-6)
        np.testing.assert_allclose(ours["loss_auxiliary"], theirs["aux.loss_ce"], rtol=5e-6)
        np.testing.assert_allclose(100 * ours["accuracy"], theirs["decode.acc_seg"], rtol=1e-3)

    # The losses above agree to float32. Weights and gradients have its noise, which BatchNorm over two values (a pooled
    # branch) and a ReLU that flips between steps amplify; run in float64 they are within 6e-6 std of the reference's.
    momentum = jax.tree.leaves(states[0].opt_state, is_leaf=lambda x: isinstance(x, dict))[0]
    grads = jax.tree.map(lambda m, p: m - 5e-4 * p, momentum, before["params"])
    running = {name: value for name, value in case.group("sd").items() if "running" in name}
    expected = import_weights(model, case.group("grad") | running, template)["params"]
    assert largest_error(grads, expected) < 5e-3
    after = import_weights(model, case.group("after"), template)
    assert largest_error(states[-1].params, after["params"]) < 1e-3
    assert largest_error(states[-1].batch_stats, after["batch_stats"]) < 1e-4


@pytest.fixture(scope="module")
def small():
    """A small network of two levels of everything, its variables, and a batch of 8 images with ignored pixels."""
    model = Segmenter(
        ResNet(**tiny.ENCODER),
        PSPHead(num_classes=3, channels=4, pool_scales=(1, 2), dropout=0.0),
        FCNHead(num_classes=3, channels=4, in_index=2, num_convs=1, concat_input=False, dropout=0.0),
    )
    variables = parallel.jit_once(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (8, 32, 32)).astype(np.uint8)
    label[:3] = 255  # parts and devices with few or no counted pixels
    label[:, 20:] = 255
    image = rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    return model, variables, {"image": image, "label": label, "size": np.full((8, 2), 32, np.int32)}


def test_eight_devices_compute_what_one_does(small):
    model, variables, batch = small
    one, measured_one = trained(model, variables, [batch], step_config(), devices=1)
    eight, measured_eight = trained(model, variables, [batch], step_config(), devices=8)
    for name, value in measured_one[0].items():
        np.testing.assert_allclose(measured_eight[0][name], value, rtol=2e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), eight[0].params, one[0].params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), eight[0].batch_stats, one[0].batch_stats)


def test_accumulation_gives_the_whole_batchs_gradient(small):
    model, variables, batch = small
    # with images 0, 0, 1, 1, ... both parts hold the same images, so BatchNorm sees in each what it sees in the whole
    twice = {name: np.repeat(array[2:6], 2, axis=0) for name, array in batch.items()}
    config = step_config()
    config.loss.average = "valid"
    whole, measured_whole = trained(model, variables, [twice], config)
    config.accumulate = 2
    parts, measured_parts = trained(model, variables, [twice], config)
    for name, value in measured_whole[0].items():
        np.testing.assert_allclose(measured_parts[0][name], value, rtol=2e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), parts[0].params, whole[0].params)


def test_bfloat16_is_for_the_network_alone():
    """Parameters, running statistics, gradients and loss stay float32; remat changes no shape."""
    config = datasets.shapes(options.decoder("aspp", channels=4, dilations=(1, 2)), **tiny.ENCODER)
    config.model.update(dtype="bfloat16", remat=True)
    config.accumulate = 2
    model = build(config.model).with_equalizer(mode="none")
    tx, schedule = optimizers.build(config.optimizer, 10)
    shapes = jax.eval_shape(lambda: state.create(model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))), tx))
    batch = {"image": (4, 32, 32, 3), "label": (4, 32, 32), "size": (4, 2)}
    dtypes = {"image": jnp.uint8, "label": jnp.uint8, "size": jnp.int32}
    batch = {name: jax.ShapeDtypeStruct(shape, dtypes[name]) for name, shape in batch.items()}
    step = make_train_step(model, tx, schedule, config, losses.build(config.loss, model), (Accuracy(),))
    after, measured = jax.eval_shape(step, shapes, batch)
    assert {x.dtype for x in jax.tree.leaves(measured.pop("metrics"))} == {jnp.dtype("int32")}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert {x.dtype for x in jax.tree.leaves((after.params, after.batch_stats, measured))} == {jnp.dtype("float32")}


def test_streams_differ_by_name_and_seed():
    keys = [stream(*of) for of in ((0, "params"), (0, "dropout"), (1, "params"))]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3
