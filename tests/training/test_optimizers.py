import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from se_jax import checkpoints, parallel, run_config
from se_jax.config import optimizers as recipes
from se_jax.config import options
from se_jax.importers import convert
from se_jax.models import (
    ConvNeXt,
    FCNHead,
    MixVisionTransformer,
    ResNet,
    SegformerHead,
    Segmenter,
    Swin,
    Twins,
    UPerHead,
    VWFormerHead,
)
from se_jax.training import optimizers, state
from tests.conftest import GOLDEN

# with a rule for each of the six parameters: rate and decay, rate alone, decay alone, none, and two that meet
RATES = (("^decoder/bn", 0.5), ("^decoder/", 10.0))
DECAYS = (("norm", 0.0), ("bn/bias$", 3.0))
PARAMS = {
    "encoder": {"fc": {"kernel": (3, 4), "bias": (4,)}, "norm": {"scale": (4,)}},
    "decoder": {"conv": {"kernel": (1, 1, 4, 2)}, "bn": {"scale": (2,), "bias": (2,)}},
}
MULTIPLIERS = {  # of rate and decay
    "encoder": {"fc": {"kernel": (1, 1), "bias": (1, 1)}, "norm": {"scale": (1, 0)}},
    "decoder": {"conv": {"kernel": (10, 1)}, "bn": {"scale": (0.5, 1), "bias": (0.5, 3)}},
}


def is_tuple(x):
    return isinstance(x, tuple)


def draw(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(dtype), PARAMS, is_leaf=is_tuple)


def config(**changes):
    values = {"learning_rate": 0.1, "min_learning_rate": 0.0, "weight_decay": 0.01}
    return ConfigDict(recipes.sgd(**values | changes))


# ---- The schedule ----


def rates(steps=10, **changes):
    """The rate of every step of a run with these options."""
    options = {"learning_rate": 1.0, "min_learning_rate": 0.0, **changes}
    _, schedule = optimizers.build(ConfigDict(recipes.sgd(**options)), steps)
    return np.array([schedule(step) for step in range(steps)])


def test_the_rate_falls_at_milestones():
    """torch's MultiStepLR(milestones=[3, 7], gamma=0.1)."""
    expected = [1.0] * 3 + [0.1] * 4 + [0.01] * 3
    np.testing.assert_allclose(rates(schedule="step", milestones=(3, 7)), expected, rtol=1e-6)
    floor = rates(schedule="step", milestones=(3,), milestone_factor=0.5, min_learning_rate=0.5)
    np.testing.assert_allclose(floor, [1.0] * 3 + [0.75] * 7, rtol=1e-6)


def test_one_cycle_goes_up_and_down():
    found = rates(100, schedule="one_cycle")
    np.testing.assert_allclose(found[[0, 30]], [1 / 25, 1.0], rtol=1e-6)
    assert np.all(np.diff(found[:31]) > 0) and np.all(np.diff(found[30:]) < 0) and found[-1] < 2e-3


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("linear", [0.01, 0.34, 0.67]), ("exponential", [1e-2, 10 ** (-4 / 3), 10 ** (-2 / 3)]), ("constant", [0.01] * 3)],
)
def test_warm_ups(kind, expected):
    found = rates(schedule="cosine", warmup=kind, warmup_steps=4, warmup_factor=0.01)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5)
    assert found[4] == 1


@pytest.mark.parametrize(
    "name, recipe, num_steps",
    [("sgd_poly_40k", recipes.sgd(), 40_000), ("adamw_warmup_160k", recipes.adamw_swin(), 160_000)],
)
def test_poly_is_the_references(golden, name, recipe, num_steps):
    case = golden("schedules")
    _, schedule = optimizers.build(ConfigDict(recipe), num_steps)
    rate = jax.jit(schedule)(case[f"res/{name}/iter"])
    np.testing.assert_allclose(1e6 * rate, case[f"res/{name}/lr_x1e6"], rtol=2e-6, atol=1e-9)


def test_the_open_poly_is_detectron2s(golden):
    case = golden("m2f_ops")
    recipe = config(schedule="poly_open", learning_rate=1e-4)
    _, schedule = optimizers.build(recipe, case.meta["lr_total"])
    np.testing.assert_allclose(jax.jit(schedule)(np.array(case.meta["lr_steps"])), case["out/lr"], rtol=2e-6)


def test_cosine_is_its_formula():
    settings = config(schedule="cosine", learning_rate=0.08, min_learning_rate=1e-3, warmup_steps=5)
    _, schedule = optimizers.build(settings, 105)
    rates = np.array([schedule(step) for step in range(105)], np.float64)
    np.testing.assert_allclose(rates[:5], 0.08 * np.maximum([0, 0.25, 0.5, 0.75, 1], 1e-6), rtol=1e-5)
    turn = np.pi * np.arange(100) / 99
    np.testing.assert_allclose(rates[5:], 1e-3 + 0.079 * (1 + np.cos(turn)) / 2, rtol=1e-5)


@pytest.mark.parametrize("schedule", [optimizers.poly_schedule, optimizers.cosine_schedule])
def test_a_schedule_of_one_step_is_defined(schedule):
    assert np.isfinite(schedule(0.1, 1)(jnp.int32(0)))


def test_a_schedule_takes_whole_numbers_and_traced_ones():
    _, schedule = optimizers.build(config(warmup_steps=0), 400)
    np.testing.assert_allclose([schedule(step) for step in (0, 100, 399)], jax.jit(schedule)(np.array([0, 100, 399])))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="optimizer.schedule is 'steps'; expected one of poly, poly_open, cosine"):
        optimizers.build(config(schedule="steps"), 10)


# ---- SGD and AdamW, by their definitions ----


def reference_rate(settings, multiplier, step, num_steps):
    """mmengine's, in float64: each group of parameters has a schedule of its own, all down to the same minimum."""
    base, warmup = multiplier * settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return base * (1e-6 + (1 - 1e-6) * step / (warmup - 1))
    left = 1 - (step - warmup) / (num_steps - warmup - 1)
    return settings.min_learning_rate + (base - settings.min_learning_rate) * left**settings.power


def sgd_step(settings, slots, gradient, weight, rate, decay, step):
    """torch.optim.SGD."""
    gradient = gradient + decay * weight
    slots["buffer"] = settings.momentum * slots.get("buffer", 0) + gradient
    return weight - rate * (gradient + settings.momentum * slots["buffer"] if settings.nesterov else slots["buffer"])


def adamw_step(settings, slots, gradient, weight, rate, decay, step):
    """torch.optim.AdamW: Loshchilov and Hutter's algorithm 2, with bias correction and eps outside the root."""
    slots["first"] = 0.9 * slots.get("first", 0) + 0.1 * gradient
    slots["second"] = 0.999 * slots.get("second", 0) + 0.001 * gradient**2
    first, second = slots["first"] / (1 - 0.9 ** (step + 1)), slots["second"] / (1 - 0.999 ** (step + 1))
    return weight * (1 - rate * decay) - rate * first / (np.sqrt(second) + 1e-8)


@pytest.mark.parametrize("multipliers", [False, True])
@pytest.mark.parametrize(
    "name, nesterov, torch_step", [("sgd", False, sgd_step), ("sgd", True, sgd_step), ("adamw", False, adamw_step)]
)
def test_steps_are_torchs(name, nesterov, torch_step, multipliers):
    rules = {"rate_multipliers": RATES, "decay_multipliers": DECAYS} if multipliers else {}
    settings = config(name=name, nesterov=nesterov, learning_rate=0.01, min_learning_rate=1e-3, warmup_steps=3, **rules)
    tx, schedule = optimizers.build(settings, num_steps=8)
    update = jax.jit(tx.update)
    params = draw(0)
    opt_state = tx.init(params)
    weights = jax.tree.map(lambda x: (x.astype(np.float64), {}), params)
    for step in range(8):
        gradients = draw(step + 1)
        updates, opt_state = update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(schedule(step), reference_rate(settings, 1, step, 8), rtol=1e-6)

        def move(pair, gradient, multiplier, step=step):
            weight, slots = pair
            by, decay = multiplier if multipliers else (1, 1)
            rate = reference_rate(settings, by, step, 8)
            gradient = gradient.astype(np.float64)
            return torch_step(settings, slots, gradient, weight, rate, decay * settings.weight_decay, step), slots

        weights = jax.tree.map(move, weights, gradients, MULTIPLIERS, is_leaf=is_tuple)
        jax.tree.map(
            lambda ours, pair: np.testing.assert_allclose(ours, pair[0], rtol=1e-5, atol=2e-6), params, weights
        )


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_long_gradients_are_cut_before_anything_else(name):
    """One of half the length is not; and all parameters together have the length."""
    plain, _ = optimizers.build(config(name=name), 8)
    cut, _ = optimizers.build(config(name=name, clip_norm=0.5), 8)
    params, gradients = draw(0), draw(1)
    unit = jax.tree.map(lambda x: x / optax.tree_utils.tree_norm(gradients), gradients)
    for length in (0.25, 4.0):
        given = jax.tree.map(lambda x, length=length: length * x, unit)
        expected = jax.tree.map(lambda x, length=length: min(length, 0.5) * x, unit)
        updates, _ = cut.update(given, cut.init(params), params)
        same, _ = plain.update(expected, plain.init(params), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), updates, same)
    with pytest.raises(ValueError, match="optimizer.clip_norm is -1"):
        optimizers.build(config(clip_norm=-1.0), 8)


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_without_multipliers_nothing_is_added(name):
    settings = config(name=name)
    tx, schedule = optimizers.build(settings, num_steps=8)
    plain = {
        "sgd": optax.chain(optax.add_decayed_weights(0.01), optax.sgd(schedule, momentum=0.9)),
        "adamw": optax.adamw(schedule, weight_decay=0.01),
    }[name]
    params = draw(0)
    assert jax.tree.structure(tx.init(params)) == jax.tree.structure(plain.init(params))
    programs = [str(jax.make_jaxpr(each.update)(params, each.init(params), params)) for each in (tx, plain)]
    assert programs[0] == programs[1]


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="optimizer.name is 'adam'; expected one of sgd, adamw"):
        optimizers.build(config(name="adam"), 10)


@pytest.mark.parametrize("entry", ["norm", ("norm",), ("norm", None), ("(norm", 0.0), 0.0])
def test_a_multiplier_that_is_none_is_refused(entry):
    with pytest.raises(
        ValueError, match=r"optimizer.decay_multipliers has .*; expected \(regular expression, number\)"
    ):
        optimizers.build(config(decay_multipliers=(entry,)), 10)


def test_a_pattern_that_is_found_nowhere_is_named():
    tx, _ = optimizers.build(config(rate_multipliers=(("head", 10.0),)), 10)
    with pytest.raises(ValueError, match="rate_multipliers has the pattern 'head', which is found in no parameter"):
        jax.eval_shape(tx.init, draw(0))


# ---- Multipliers on disk and on many devices ----


def test_multipliers_survive_config_json(tmp_path):
    whole = options.get_config()
    whole.optimizer = recipes.adamw_convnext(6)
    run_config.write(tmp_path, whole)
    run_config.check(tmp_path, whole)
    loaded = run_config.load(tmp_path).optimizer
    for option in ("rate_multipliers", "decay_multipliers"):
        assert tuple(map(tuple, loaded[option])) == whole.optimizer[option]
    optimizers.build(loaded, 10)


def test_slots_are_sharded_and_come_back_from_a_checkpoint(tmp_path):
    mesh = parallel.make_mesh(ConfigDict({"mesh": {"model": 2}}))
    settings = config(name="adamw", rate_multipliers=RATES, decay_multipliers=DECAYS)
    tx, _ = optimizers.build(settings, 10)
    params = draw(0)

    def create(params):
        return state.create({"params": params}, tx)

    layout = parallel.state_shardings(mesh, jax.eval_shape(create, params), tx)
    born = parallel.jit_once(create, out_shardings=layout)(params)
    step = parallel.jit_once(lambda s, g: state.update(s, g, {}, tx), donate_argnums=0, out_shardings=layout)
    after = step(born, draw(1))
    kernels = [x for x in jax.tree.leaves(after) if x.shape == (3, 4)]
    assert [x.sharding.spec for x in kernels] == [P(None, "model")] * 3  # the parameter and its two moments
    updates, _ = tx.update(draw(1), tx.init(params), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.params, optax.apply_updates(params, updates)
    )

    store = checkpoints.Checkpoints(tmp_path)
    store.save(1, after)
    store.wait()
    blank = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), after)
    back = store.restore(blank)
    store.close()
    assert jax.tree.structure(back) == jax.tree.structure(after)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, after))


# ---- The reference's recipes ----

NARROW = {"widths": (4, 4, 4, 4)}
UPER, AUXILIARY = UPerHead(2, channels=4), FCNHead(2, channels=4, in_index=2, num_convs=1, concat_input=False)
# config of the reference -> (optimiser, network of its depth, but narrow: names do not depend on widths)
RECIPES = {
    "swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512": (
        recipes.adamw_swin(),
        Segmenter(Swin("tiny", width=4, heads=(1, 1, 1, 1)), UPER, AUXILIARY),
    ),
    "segformer_mit-b0_8xb2-160k_ade20k-512x512": (
        recipes.adamw_segformer(),
        Segmenter(MixVisionTransformer("b0", width=4, heads=(1, 1, 1, 1)), SegformerHead(2, channels=4)),
    ),
    "twins_svt-s_uperhead_8xb2-160k_ade20k-512x512": (
        recipes.adamw_swin(),
        Segmenter(Twins("svt_small", heads=(1, 1, 1, 1), **NARROW), UPER, AUXILIARY),
    ),
    "convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512": (
        recipes.adamw_convnext(num_layers=6),
        Segmenter(ConvNeXt("tiny", **NARROW), UPER, AUXILIARY),
    ),
    "convnext-small_upernet_8xb2-amp-160k_ade20k-512x512": (
        recipes.adamw_convnext(num_layers=12),
        Segmenter(ConvNeXt("small", **NARROW), UPER, AUXILIARY),
    ),
    "fcn_r50-d8_4xb2-40k_cityscapes-512x1024": (
        recipes.sgd(),
        Segmenter(ResNet(50, width=4), FCNHead(2, channels=4), AUXILIARY),
    ),
}


def effective(recipe, params):
    """Two trees of numbers: the rate that a parameter has, as a multiple of the base, and its decay."""
    settings = ConfigDict(recipe | {"warmup_steps": 0})  # the first step has the whole rate
    tx, _ = optimizers.build(settings, 10_000)
    ones, zeros = (jax.tree.map(lambda _, value=value: jnp.float32(value), params) for value in (1.0, 0.0))
    by_gradient, _ = tx.update(ones, tx.init(ones), zeros)
    by_decay, _ = tx.update(zeros, tx.init(ones), ones)
    rates = jax.tree.map(lambda x: -x / settings.learning_rate, by_gradient)
    return rates, jax.tree.map(lambda x, rate: -x / settings.learning_rate / rate, by_decay, rates)


@pytest.mark.parametrize("name", RECIPES)
def test_every_parameter_has_the_references_rate_and_decay(name):
    expected = json.loads((GOLDEN / "param_groups.json").read_text())[name]
    recipe, model = RECIPES[name]
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    found = []
    for values in effective(recipe, variables["params"]):
        filled = jax.tree.map(lambda leaf, value: np.full(leaf.shape, value), variables["params"], values)
        tensors = convert.export_weights(model, {"params": filled})
        assert all(np.all(tensor == tensor.flat[0]) for tensor in tensors.values())
        found.append({key: tensor.flat[0] for key, tensor in tensors.items()})
    assert found[0].keys() == expected.keys()
    for key, (rate, decay) in expected.items():
        np.testing.assert_allclose([found[0][key], found[1][key]], [rate, decay], rtol=1e-5, err_msg=key)


def test_vwformers_rates_of_swin_fall_by_layers():
    """By the names of its authors' code: 0.85 a layer below the head, two blocks of the third stage being one."""
    encoder = Swin("base", width=4, heads=(1, 1, 1, 1), window=2)
    model = Segmenter(encoder, VWFormerHead(2, channels=64, c1_channels=4))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    trees = (
        jax.tree.map(lambda leaf, value: np.full(leaf.shape, value), params, values)
        for values in effective(recipes.adamw_swin_layers(), params)
    )
    rates, decays = (convert.export_weights(model, {"params": tree}) for tree in trees)
    for name, decay in decays.items():
        parts = name.split(".")
        stage = int(parts[2]) if parts[1] == "stages" else None
        if parts[1] == "patch_embed":
            layer = 0
        elif stage is None:
            layer = 13
        elif parts[3] == "blocks":
            layer = (1, 2, 3 + int(parts[4]) // 2, 12)[stage]
        else:
            layer = 1 + stage
        np.testing.assert_allclose(rates[name], 0.85 ** (13 - layer), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(decay, 0.05 if decay.ndim > 1 else 0, rtol=1e-5, err_msg=name)
