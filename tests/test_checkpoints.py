import functools
import json
import pathlib
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from se_jax import checkpoints, parallel, run_config
from se_jax.config import options
from se_jax.training import state

TX = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(lambda step: 0.1, momentum=0.9))


def variables(scale=1.0, width=8):
    return {
        "params": {"conv": {"kernel": scale * jnp.ones((3, 3, 3, width))}, "bn": {"scale": scale * jnp.ones(width)}},
        "batch_stats": {"bn": {"mean": scale * jnp.ones(width)}},
        "equalizer": {"site": {"mean": scale * jnp.ones(1)}},
    }


def make_state(scale=1.0, width=8, keep_ema=True):
    return state.create(variables(scale, width), TX, keep_ema=keep_ema)._replace(step=jnp.int32(scale))


def abstract(tree, devices=None):
    mesh = parallel.make_mesh(devices=devices)
    shapes = jax.eval_shape(lambda: tree)
    shardings = parallel.state_shardings(mesh, shapes, TX)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


CONFIG = ConfigDict({"num_steps": 3, "data": {"dir": "a", "crop": (4, 6)}, "eval": {"batch_size": 1}})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Steps 1 to 5 of a run, of which step 2 was the best."""
    folder = tmp_path_factory.mktemp("run")
    run_config.write(folder, CONFIG)
    store = checkpoints.Checkpoints(folder, keep=2)
    for step, miou in ((1, 0.3), (2, 0.5), (3, None), (4, 0.4), (5, None)):
        store.save(step, make_state(float(step)))  # saved first, scored later
        if miou is not None:
            store.scores[step] = miou
    store.close()
    lines = [{"step": step, "miou": miou} for step, miou in store.scores.items()] + [{"step": 5, "loss": 1.0}]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_last_and_the_best_are_kept(workdir):
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir()) == [2, 4, 5]


def test_a_state_comes_back_bit_by_bit(workdir):
    store = checkpoints.Checkpoints(workdir)
    assert store.last == 5
    assert equal(store.restore(abstract(make_state())), make_state(5.0))
    store.close()


def test_a_state_comes_back_on_fewer_devices(workdir):
    store = checkpoints.Checkpoints(workdir)
    restored = store.restore(abstract(make_state(), jax.devices()[:4]))
    assert restored.params["conv"]["kernel"].sharding.num_devices == 4
    assert equal(restored, make_state(5.0))
    store.close()


def test_every_collection_of_constants_comes_back(tmp_path):
    constants = {"equalizer": variables()["equalizer"], "dupsampling": {"kernel": jnp.ones((2, 6))}}
    full = make_state()._replace(constants=constants)
    run_config.write(tmp_path, CONFIG)
    store = checkpoints.Checkpoints(tmp_path)
    store.save(1, full)
    store.wait()
    assert equal(store.restore(abstract(full)), full)
    with pytest.raises(ValueError, match="of another network.*\n.*\n.*dupsampling/kernel.*absent"):
        store.restore(abstract(make_state()))
    store.close()
    loaded = checkpoints.load_for_inference(tmp_path)[1]
    assert equal({name: loaded[name] for name in constants}, jax.device_get(constants))


def test_a_state_without_average_or_equalizer_comes_back(tmp_path):
    bare = make_state(keep_ema=False)._replace(constants={})
    store = checkpoints.Checkpoints(tmp_path)
    assert store.last is None
    store.save(1, bare)
    store.wait()
    assert equal(store.restore(abstract(bare)), bare)
    store.close()


def test_saving_survives_the_donation_of_the_state(tmp_path):
    step = jax.jit(functools.partial(jax.tree.map, lambda x: 0 * x), donate_argnums=0)
    store = checkpoints.Checkpoints(tmp_path)
    current = jax.tree.map(jnp.copy, make_state(width=2048))
    store.save(1, current)
    jax.block_until_ready(step(current))
    store.wait()
    assert equal(store.restore(abstract(make_state(width=2048))), make_state(width=2048))
    store.close()


def test_a_checkpoint_of_another_network_is_refused(workdir):
    store = checkpoints.Checkpoints(workdir)
    with pytest.raises(
        ValueError, match=r"of another network(.|\n)*params/conv/kernel: \(3, 3, 3, 8\) -> \(3, 3, 3, 4\)"
    ):
        store.restore(abstract(make_state(width=4)))
    store.close()


@pytest.mark.parametrize("which, step", [("best", 2.0), ("last", 5.0)])
def test_inference_gets_config_and_variables(workdir, which, step):
    config, loaded = checkpoints.load_for_inference(workdir, which)
    assert config.data.crop == (4, 6)
    assert equal(loaded, variables(step))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))


def test_inference_takes_the_average_of_the_parameters(tmp_path):
    run_config.write(tmp_path, CONFIG)
    store = checkpoints.Checkpoints(tmp_path)
    store.save(1, make_state(1.0)._replace(ema=variables(7.0)["params"]))
    store.close()
    _, loaded = checkpoints.load_for_inference(tmp_path)
    assert equal(loaded["params"], variables(7.0)["params"])
    assert equal(loaded["batch_stats"], variables(1.0)["batch_stats"])


def test_inference_without_a_run_or_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no workdir of a run"):
        checkpoints.load_for_inference(tmp_path)
    run_config.write(tmp_path, CONFIG)
    with pytest.raises(FileNotFoundError, match="checkpoints holds no checkpoint"):
        checkpoints.load_for_inference(tmp_path)
    with pytest.raises(ValueError, match="expected 'best' or 'last'"):
        checkpoints.load_for_inference(tmp_path, "first")


@pytest.mark.parametrize("source, step", [("", 2.0), ("checkpoints/4", 4.0)])
def test_a_run_starts_from_another(workdir, source, step):
    started = checkpoints.init_from(workdir / source, variables(9.0))
    expected = variables(step) | {"equalizer": variables(9.0)["equalizer"]}
    assert equal(started, expected)


def test_a_run_does_not_start_from_another_network(workdir, tmp_path):
    with pytest.raises(ValueError, match="is of another network"):
        checkpoints.init_from(workdir, variables(width=4))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3; it has \[2, 4, 5\]"):
        checkpoints.init_from(workdir / "checkpoints" / "3", variables())


def test_another_config_is_refused_with_the_difference(tmp_path):
    run_config.write(tmp_path, CONFIG)
    other = CONFIG.copy_and_resolve_references()
    other.num_steps, other.data.crop = 4, (4, 8)
    with pytest.raises(run_config.ConfigMismatch) as error:
        run_config.check(tmp_path, other)
    assert "num_steps: 3 -> 4" in str(error.value)
    assert "data.crop: [4, 6] -> [4, 8]" in str(error.value)


def test_a_longer_schedule_is_refused_with_the_command_that_does_it(tmp_path):
    """The command is that of another run, which starts from this one's weights, with the same other changes."""
    config = options.get_config()
    config.init_from, config.init_skip = "before", "classifier"
    run_config.write(tmp_path, config)
    other = config.copy_and_resolve_references()
    other.num_steps, other.data.crop = 5000, (64, 96)
    with pytest.raises(run_config.ConfigMismatch) as error:
        run_config.check(tmp_path, other)
    command = str(error.value).splitlines()[-1]
    _, _, module, *arguments = shlex.split(command)
    assert module == "se_jax.main"
    given = dict(argument.split("=", 1) for argument in arguments)
    assert given == {
        "--config": f"{tmp_path}/config.json",
        "--config.num_steps": "5000",
        "--config.data.crop": "(64, 96)",
        "--config.init_from": str(tmp_path),
        "--config.init_skip": "",
        "--workdir": f"{tmp_path}_longer",
    }


def test_what_changes_no_result_may_differ(tmp_path):
    run_config.write(tmp_path, CONFIG)
    other = CONFIG.copy_and_resolve_references()
    other.data.dir, other.eval.batch_size = "b", 2
    run_config.check(tmp_path, other)
    run_config.write(tmp_path, other)
    assert run_config.load(tmp_path).data.dir == "b"


def test_empty_collections_of_earlier_versions_are_no_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "VARIABLES", (*checkpoints.VARIABLES, "fitted"))
    store = checkpoints.Checkpoints(tmp_path)
    store.save(1, make_state(1.0))
    store.close()
    monkeypatch.undo()
    store = checkpoints.Checkpoints(tmp_path)
    restored = store.restore(abstract(make_state()))
    store.close()
    assert equal(restored, make_state(1.0))


# ---- Damage ----


def change(path: pathlib.Path, how: str):
    """Damages a file."""
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 16
    path.write_bytes(data[: len(data) // 2] if how == "cut" else b"" if how == "empty" else bytes(data))
    if how == "remove":
        path.unlink()


def largest(folder: pathlib.Path) -> pathlib.Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "file, how, message",
    [
        ("variables", "flip", "is not what was written"),
        ("progress", "cut", "is not what was written"),
        ("variables/_METADATA", "empty", "is not what was written"),
        ("progress/_METADATA", "remove", "is missing"),
        ("SHA256SUMS", "cut", "SHA256SUMS is damaged"),
    ],
)
def test_the_newest_whole_checkpoint_is_used(workdir, tmp_path, file, how, message, caplog):
    run = shutil.copytree(workdir, tmp_path / "run")
    for step in ("5", "4"):
        path = run / "checkpoints" / step / file
        change(largest(path) if path.is_dir() else path, how)
    with pytest.raises(
        checkpoints.DamagedCheckpoint, match=rf"no whole checkpoint in (.|\n)*checkpoints/5: .*{message}"
    ):
        checkpoints.init_from(run / "checkpoints" / "5", variables())
    assert equal(checkpoints.load_for_inference(run, "last")[1], variables(2.0))

    store = checkpoints.Checkpoints(run)
    assert equal(store.restore(abstract(make_state())), make_state(2.0))
    assert (
        message in caplog.text and "checkpoints/5 is damaged" in caplog.text and "Using that of step 2" in caplog.text
    )
    assert store.last == 2
    assert sorted(path.name for path in (run / "damaged").iterdir()) == ["4", "5"]
    store.save(4, make_state(4.0))  # the run goes on
    store.close()
    assert equal(checkpoints.load_for_inference(run, "last")[1], variables(4.0))


def test_without_checksums_what_cannot_be_read_is_damaged(workdir, tmp_path):
    """Runs of earlier versions have none."""
    run = shutil.copytree(workdir, tmp_path / "run")
    for step in ("2", "4", "5"):
        (run / "checkpoints" / step / "SHA256SUMS").unlink()
    change(run / "checkpoints" / "5" / "variables" / "_METADATA", "empty")
    store = checkpoints.Checkpoints(run)
    assert equal(store.restore(abstract(make_state())), make_state(4.0))
    store.close()


def test_where_none_is_whole_the_error_says_how_to_start_anew(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    for step in ("2", "4", "5"):
        change(largest(run / "checkpoints" / step), "flip")
    store = checkpoints.Checkpoints(run)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="start anew in another --workdir(.|\n)*/2: (.|\n)*"):
        store.restore(abstract(make_state()))
    store.close()
    assert not (run / "damaged").exists()  # nothing is moved that nothing takes the place of


def test_a_damaged_config_or_history_is_named(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    change(run / "config.json", "cut")
    with pytest.raises(ValueError, match=r"config.json is damaged \(.*bring it back"):
        checkpoints.load_for_inference(run)
    change(run / "config.json", "empty")
    with pytest.raises(ValueError, match="config.json is empty"):
        run_config.check(run, CONFIG)
    (run / "history.jsonl").write_bytes(b'{"step": 1, "miou": 0.5}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"history.jsonl, line 2, is damaged"):
        checkpoints.scores(run, "val/miou")
