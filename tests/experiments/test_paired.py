"""Paired runs on frozen features: arms that start alike, controls that change one thing, results that add up."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import data_pipelines
from experiments import arms, comparison, features, heads, paired, records
from se_jax import checkpoints, run, run_config
from se_jax.config.normalization import INCEPTION
from se_jax.equalizer.fusion import site_variables
from se_jax.evaluation import evaluator
from se_jax.models import build
from se_jax.training import loop
from se_jax.training.step import stream
from tests.experiments.toy_encoder import tiny_config
from tests.report.parsed import Page


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return features.load(tiny_config(), "train", tmp_path_factory.mktemp("features"), epochs=1)


def starts_of(pool, *names):
    """(statistics, {arm: Start}) of arms at seed 3."""
    config, starts = tiny_config(), heads.Starts(pool)
    found = {}
    for name in names:
        changed, control = arms.changed(config, arms.ARMS[name])
        found[name] = starts.of(changed, control, 3)
    (_, site), *_ = site_variables(
        starts.of(arms.changed(config, arms.ARMS["explicit"])[0], "", 3).variables["equalizer"]
    )
    return config, site, found


def test_controls_change_one_thing_each(pool):
    names = ("none", "folded", "explicit", "uniform", "rate", "analytic", "scalar", "batch")
    config, site, found = starts_of(pool, *names)
    maps, label = pool.take(slice(0, 4))
    key = ("convs_0", "block", "conv", "kernel")
    widths = [branch["std"].size for branch in site.values()]
    std = np.concatenate([branch["std"] for branch in site.values()])

    def applied(name):
        start = found[name]
        decoder = build(config.model).with_equalizer(mode=start.mode).decoder
        constants = {collection: tree for collection, tree in start.variables.items() if collection != "params"}

        def loss(params):
            variables = {"params": start.view(params), **constants}
            with start.around(True):
                logits = decoder.apply(variables, maps, train=True, mutable=["batch_stats"])[0]["logits"]
            return jnp.sum(jnp.sin(logits)), logits

        (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(start.variables["params"])
        return logits, traverse_util.flatten_dict(gradient), traverse_util.flatten_dict(start.variables["params"])

    logits, gradients, params = zip(*map(applied, names), strict=True)
    logits, gradients, params = (dict(zip(names, found, strict=True)) for found in (logits, gradients, params))
    same = {"rtol": 1e-3, "atol": 1e-3 * np.std(logits["none"])}
    for control in ("rate", "scalar"):  # the plain function
        np.testing.assert_allclose(logits[control], logits["none"], **same)
    np.testing.assert_allclose(logits["folded"], logits["explicit"], **same)
    # as long as folding makes the weights, but every branch alike
    norm = {name: np.linalg.norm(params[name][key]) for name in names}
    assert norm["uniform"] == pytest.approx(norm["folded"], rel=1e-5)
    ratio = params["uniform"][key] / params["none"][key]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-5)
    # a branch's step in effective weights: gradient / std / std of the plain one's
    effective = gradients["rate"][key] / std[:, None]
    expected = gradients["none"][key] / std[:, None] ** 2
    np.testing.assert_allclose(effective, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    scalars = gradients["scalar"][(arms.SCALARS, "/".join(key))]
    parts = arms.blocks(gradients["none"][key] * params["none"][key], widths)
    sums = [part.sum() for part in parts]
    np.testing.assert_allclose(scalars, sums, rtol=1e-2, atol=1e-3 * np.abs(sums).max())
    (_, analytic), *_ = site_variables(found["analytic"].variables["equalizer"])
    assert [float(branch["std"][0]) for branch in analytic.values()][0] == pytest.approx(0.583819, rel=1e-5)


def test_batch_norm_behind_the_resize_makes_a_branchs_scale_of_no_account(pool):
    config, site, found = starts_of(pool, "batch")
    start, (maps, _) = found["batch"], pool.take(slice(0, 4))
    decoder = build(config.model).with_equalizer(mode=start.mode).decoder
    maps = tuple(100 * x for x in maps)  # so that epsilon does not count

    @jax.jit
    def applied(maps):
        with start.around(True):
            return decoder.apply(start.variables, maps, train=True, mutable=["batch_stats"])

    (outputs, updates), (scaled, _) = applied(maps), applied((10 * maps[0] + 3, *maps[1:]))
    logits = np.asarray(outputs["logits"])
    np.testing.assert_allclose(scaled["logits"], logits, atol=1e-3 * logits.std())
    moved = traverse_util.flatten_dict(updates["batch_stats"])
    # a tenth of the way from 0 to the mean of the map, which a resize of it keeps
    key = next(key for key in moved if key[-2:] == ("0_level0_norm", "mean"))
    np.testing.assert_allclose(moved[key], 0.1 * maps[0].mean((0, 1, 2)), rtol=1e-4)
    assert sum(key[-2].endswith("_norm") for key in moved) == 2 * len(site)
    with start.around(False):  # by the running statistics, not the batch's
        plain, doubled = (
            jax.jit(decoder.apply)({**start.variables, **updates}, (factor * maps[0], *maps[1:])) for factor in (1, 2)
        )
    assert np.abs(plain["logits"] - doubled["logits"]).max() > logits.std() / 10


def flags_of(tmp_path, **changes):
    return types.SimpleNamespace(workdir=str(tmp_path), test_split="test", epochs=1, together=2, **changes)


def test_frozen_runs_are_pairs_and_go_on_where_they_stopped(tmp_path, capsys):
    config, results = tiny_config(), tmp_path / "results.jsonl"
    named = paired.prepare(config, {name: arms.ARMS[name] for name in ("none", "explicit")}, 1)
    wanted = [(seed, rate) for seed in (0, 1) for rate in (1e-3, 1e-2)]
    paired.fill("tiny", {"none": named["none"]}, wanted[:2], results, flags_of(tmp_path))
    first = results.read_text()
    paired.fill("tiny", named, wanted, results, flags_of(tmp_path))
    assert results.read_text().startswith(first) and len(records.read(results)) == 8
    paired.fill("tiny", named, wanted, results, flags_of(tmp_path))
    found = records.read(results)
    assert len(found) == 8 and len(results.read_text().splitlines()) == 8
    runs = {records.identity(run)[1:]: run for run in found}
    # both rates of a seed begin with the same loss; another seed with another
    assert runs["none", 0, 1e-3]["loss"][0] == pytest.approx(runs["none", 0, 1e-2]["loss"][0], rel=1e-5)
    assert runs["none", 0, 1e-3]["loss"][0] != pytest.approx(runs["none", 1, 1e-3]["loss"][0], rel=1e-5)
    rows = comparison.compare(found, ["none", "explicit"])
    assert [row.test.count for row in rows] == [2, 2] and rows[0].difference is None and rows[1].at_edge
    table = comparison.table(rows)
    assert "explicit" in table and "stripes" in table
    page = comparison.write(rows, tmp_path / "page.html", "Tiny").read_text()
    assert Page(page).headings == [
        "Arms at their best rates",
        "Classes",
        "Training loss, mean over the seeds",
        "All rates",
    ]
    assert page.count("<svg") == 4


def test_runs_that_another_process_adds_meanwhile_are_not_made_again(tmp_path, monkeypatch):
    config, results, made = tiny_config(), tmp_path / "results.jsonl", []
    config.optimizer.freeze = ()
    split = {"miou": 0.5, "iou": {}}

    def run_whole(arm, seed, rate, workdir, test_split):
        made.append(seed)
        if seed == 0:
            for other in (2, 4):
                records.append(results, {"config": "tiny", "arm": "none", "seed": other, "rate": rate})
        return {"val": split, "test": split, "loss": [1.0], "seconds": 1.0}

    monkeypatch.setattr(paired, "run_whole", run_whole)
    named = paired.prepare(config, {"none": arms.ARMS["none"]}, 1)
    paired.fill("tiny", named, [(seed, 1e-3) for seed in range(5)], results, flags_of(tmp_path))  # two at once
    assert made == [0, 1, 3] and len(results.read_text().splitlines()) == 5


def test_cached_evaluation_is_that_of_the_whole_network(tmp_path):
    config = tiny_config()
    pool, val = (features.load(config, split, tmp_path, epochs=1) for split in ("train", "val"))
    head = heads.Head(*arms.changed(config, arms.ARMS["none"]), heads.Starts(pool))
    variables = head.start(0).variables
    model, data = build(config.model).with_equalizer(mode="none"), data_pipelines.build(config.data)
    whole = jax.jit(model.init)(stream(config.seed, "params"), jnp.zeros((1, *config.data.crop, 3)))
    whole = {name: whole[name] | {"decoder": variables[name]} for name in ("params", "batch_stats")}
    expected = evaluator.evaluate(model, jax.device_get(whole), data.val, data.labels, config.eval).totals[0]
    found = head.confusion(variables, val)
    np.testing.assert_array_equal(found.sum(1), expected.sum(1))
    assert np.abs(found - expected).sum() <= 4  # ties


def test_options_that_cannot_be_are_named():
    config = tiny_config()
    assert arms.parse("slow=optimizer.name=sgd,optimizer.learning_rate=0.1") == (
        "slow",
        {"optimizer.name": "sgd", "optimizer.learning_rate": 0.1},
    )
    for text in ("slow", "=a=1", "slow=a"):
        with pytest.raises(ValueError, match="expected name=option=value"):
            arms.parse(text)
    with pytest.raises(ValueError, match="config does not have"):
        arms.changed(config, {"model.equaliser.mode": "none"})
    with pytest.raises(ValueError, match="expected one of uniform"):
        arms.changed(config, {"control": "none"})
    config.optimizer.freeze = ()
    with pytest.raises(ValueError, match="arm rate has control='rate'"):
        paired.prepare(config, {"rate": arms.ARMS["rate"]}, 1)
    with pytest.raises(ValueError, match="the arms sgd and explicit are the same"):  # the config's mode is explicit
        paired.prepare(config, {"sgd": {"optimizer.learning_rate": 1.0}, "explicit": arms.ARMS["explicit"]}, 1)
    assert paired.numbers("2..4") == [2, 3, 4] and paired.numbers("5,1") == [5, 1]
    with pytest.raises(ValueError, match="--seeds"):
        paired.numbers("a..b")
    digests = [arms.digest(*arms.changed(tiny_config(), {"seed": seed}), 1) for seed in (0, 1)]
    assert digests[0] == digests[1] != arms.digest(*arms.changed(tiny_config(), {"num_steps": 4}), 1)


def test_the_test_split_of_a_whole_run_is_seen_as_its_weights_want_it(tmp_path, monkeypatch):
    """By the stored config: the given one does not know how the weights that it starts from want images."""
    config, networks = tiny_config(), []
    assert config.model.normalization is None

    def train(given, workdir):
        config = given.copy_and_resolve_references()
        config.model.normalization = INCEPTION
        run_config.write(workdir, config)
        (workdir / run.HISTORY).write_text('{"step": 1, "loss": 2.0}\n')
        (workdir / run.CHECKPOINTS).mkdir()
        return {"miou": 0.5, "iou": {}}

    def evaluate(model, *_):
        networks.append(model)
        return types.SimpleNamespace(result=lambda: {"miou": 0.25, "iou": {}})

    monkeypatch.setattr(loop, "train_and_evaluate", train)
    monkeypatch.setattr(checkpoints, "_read_variables", lambda *_: {})
    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    found = paired.run_whole(paired.Arm(config, "", ""), 0, 0.1, tmp_path, config.data.val_split)
    assert [model.normalization for model in networks] == [INCEPTION]
    assert (found["val"]["miou"], found["test"]["miou"], found["loss"]) == (0.5, 0.25, [2.0])
    assert not (tmp_path / run.CHECKPOINTS).exists()
