"""`python -m se_jax.importers`: a checkpoint becomes a directory to start from, a run becomes a file for PyTorch."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from se_jax import checkpoints, run_config
from se_jax.config import recipes
from se_jax.config.normalization import IMAGENET
from se_jax.importers import __main__ as command
from se_jax.importers import export_weights, files, import_weights, is_folded, start_from
from se_jax.importers.skip import Skip
from se_jax.models import build, normalize
from tests import tiny


@pytest.fixture
def config():
    config = recipes.load("shapes_aspp")
    config.data.crop = (32, 32)
    config.data.num_train = config.data.num_val = 2
    config.model.encoder.update(depth=10, width=4)
    config.model.decoder.update(channels=8, dilations=(1, 2))
    config.model.auxiliary.channels = 4
    return config


def drawn(config, seed=0):
    """A plain network of the config and random variables of it."""
    model = build(config.model).with_equalizer(mode="none")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


def equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def run_import(config, source, output, layout="auto", skip_classifier=False, bgr=False):
    command.import_file(
        config.copy_and_resolve_references(), source, output, layout, skip_classifier=skip_classifier, bgr=bgr
    )


def test_a_whole_network_there_and_back(config, tmp_path, capsys):
    model, variables = drawn(config)
    exported = export_weights(model, variables)
    files.write(tmp_path / "theirs.safetensors", exported | {"backbone.stem.1.num_batches_tracked": np.array(3)})
    run_import(config, tmp_path / "theirs.safetensors", tmp_path / "imported")
    assert "layout mmseg" in (printed := capsys.readouterr().out)
    assert "skipped 1: BatchNorm's step counter" in printed

    saved, loaded = checkpoints.load_for_inference(tmp_path / "imported")
    assert saved.model.equalizer.mode == "none"  # PyTorch's network has none
    assert equal(loaded, variables)
    assert len(json.loads((tmp_path / "imported" / "labels.json").read_text())["names"]) == 9
    command.export_file(tmp_path / "imported", tmp_path / "back.safetensors", "auto")
    back = files.read(tmp_path / "back.safetensors")
    np.testing.assert_allclose([back.pop(name) for name in files.PIXELS], IMAGENET)  # whose weights, whose images
    assert back.keys() == exported.keys()
    assert all(np.array_equal(back[name], exported[name]) for name in exported)

    with pytest.raises(FileExistsError, match="is not empty"):
        run_import(config, tmp_path / "theirs.safetensors", tmp_path / "imported")


def test_an_encoder_fills_the_encoder_of_a_run(config, tmp_path):
    model, variables = drawn(config)
    inner = {name: part["encoder"] for name, part in variables.items()}
    files.write(
        tmp_path / "encoder.safetensors", export_weights(model.encoder, inner) | {"fc.weight": np.zeros((9, 4))}
    )
    run_import(config, tmp_path / "encoder.safetensors", tmp_path / "imported")
    facts = json.loads((tmp_path / "imported" / "import.json").read_text())
    assert facts["skipped"] == {"fc.weight": "ImageNet classifier"} and len(facts["sha256"]) == 64

    before = jax.device_put(drawn(config, seed=1)[1])
    for source in (tmp_path / "imported", tmp_path / "encoder.safetensors"):  # the directory, or straight from the file
        after = start_from(str(source), model, before)
        for name, part in after.items():
            assert equal(part["encoder"], inner[name])
            assert equal(part["decoder"], before[name]["decoder"])


def test_what_a_checkpoint_may_lack_keeps_its_initial_value(config, tmp_path, capsys):
    """An ImageNet Swin has no norms at its four outputs."""
    config.model.encoder = ConfigDict({"name": "swin", "width": 4, "depths": (1, 1, 1, 1), "heads": (1, 1, 1, 1)})
    model, variables = drawn(config)
    inner = {name: part["encoder"] for name, part in variables.items() if "encoder" in part}
    state = {
        name: tensor for name, tensor in export_weights(model.encoder, inner, "timm").items() if "norm3" not in name
    }
    files.write(tmp_path / "swin.safetensors", state)
    run_import(config, tmp_path / "swin.safetensors", tmp_path / "imported")
    assert "layout timm" in (printed := capsys.readouterr().out)
    assert "kept its initial value: params/norm3/scale" in printed
    after = start_from(str(tmp_path / "imported"), model, jax.device_put(variables))["params"]["encoder"]
    assert np.all(after["norm3"]["scale"] == 1)
    assert equal(after["norm2"], inner["params"]["norm2"])


def test_training_in_the_imports_own_directory_is_refused(config, tmp_path):
    _, variables = drawn(config)
    checkpoints.save_variables(tmp_path, variables)
    with pytest.raises(ValueError, match="holds imported weights, not a run; give another --workdir"):
        checkpoints.Checkpoints(tmp_path).restore(None)
    with pytest.raises(FileExistsError, match="give another directory"):
        checkpoints.save_variables(tmp_path, variables)


def test_a_checkpoint_of_other_classes_needs_to_be_asked_for(config, tmp_path):
    model, variables = drawn(config)
    state = export_weights(model, variables)
    for name in [name for name in state if "conv_seg" in name]:
        state[name] = np.zeros((150, *state[name].shape[1:]), np.float32)
    files.write(tmp_path / "ade.safetensors", state)
    with pytest.raises(
        ValueError, match=r"ade.safetensors: (.|\n)*init_skip=classifier(.|\n)*conv_seg.weight is \(150, 8, 1, 1\)"
    ):
        run_import(config, tmp_path / "ade.safetensors", tmp_path / "imported")
    assert not (tmp_path / "imported").exists()
    run_import(config, tmp_path / "ade.safetensors", tmp_path / "imported", skip_classifier=True)
    _, loaded = checkpoints.load_for_inference(tmp_path / "imported")
    assert equal(loaded["params"]["encoder"], variables["params"]["encoder"])
    assert loaded["params"]["decoder"]["conv_seg"]["kernel"].shape[-1] == 9


@pytest.mark.parametrize("change", ["half", "layout"])
def test_what_does_not_fit_leaves_nothing_behind(config, tmp_path, change):
    model, variables = drawn(config)
    state = export_weights(model, variables)
    if change == "half":
        state = dict(list(state.items())[: len(state) // 2])
    files.write(tmp_path / "x.safetensors", state)
    message = {"half": "no tensor ", "layout": "layout is 'official'; ResNet has mmseg, timm"}[change]
    with pytest.raises(ValueError, match=message):
        run_import(
            config, tmp_path / "x.safetensors", tmp_path / "imported", "auto" if change == "half" else "official"
        )
    assert not (tmp_path / "imported").exists()


def saved_run(config, folder, mode="explicit"):
    """A run of the config in a folder, as training leaves it, with random weights: (model, variables)."""
    config = config.copy_and_resolve_references()
    config.model.equalizer.mode = mode
    model = build(config.model)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.device_get(tiny.fill(tiny.shapes(model, image)))
    checkpoints.save_variables(folder, variables)
    run_config.write(folder, config)
    return model, variables


def test_an_equalized_run_is_exported_folded(config, tmp_path, capsys):
    """And comes back as the folded network: the same function, also along the border."""
    model, variables = saved_run(config, tmp_path / "run")
    with pytest.raises(ValueError, match="fold scale equalizers first"):
        export_weights(model, variables)
    command.export_file(tmp_path / "run", tmp_path / "w.safetensors", "auto")
    assert "1 of them are border terms" in capsys.readouterr().out
    tensors = files.read(tmp_path / "w.safetensors")
    assert tensors["decode_head.bottleneck.conv.tap_bias"].shape == (8, 3, 3)

    run_import(config, tmp_path / "w.safetensors", tmp_path / "imported")
    assert "equalizer.mode=folded" in capsys.readouterr().out
    saved, loaded = checkpoints.load_for_inference(tmp_path / "imported")
    assert saved.model.equalizer.mode == "folded" and is_folded(tmp_path / "imported" / "checkpoints" / "0")
    images = normalize(tiny.images(1, 32))
    ours, theirs = (
        np.asarray(jax.jit(network.apply)(values, images)["logits"])
        for network, values in ((model, variables), (build(saved.model), loaded))
    )
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * ours.std())

    with pytest.raises(ValueError, match="folded into its weights .*mode=folded starts from them"):
        start_from(tmp_path / "imported", model, jax.device_put(drawn(config)[1]))
    started = start_from(tmp_path / "imported", build(saved.model), jax.device_put(loaded))
    assert equal(jax.device_get(started), loaded)

    command.export_file(tmp_path / "run", tmp_path / "plain.safetensors", "auto", plain=True)
    printed = capsys.readouterr().out
    assert "the first image of" in printed and "the logits differ by at most" in printed
    state = files.read(tmp_path / "plain.safetensors")
    assert not any("tap_bias" in name for name in state)
    plain = model.with_equalizer(mode="none")
    values = import_weights(plain, state, {name: variables[name] for name in ("params", "batch_stats")})
    theirs = np.asarray(jax.jit(plain.apply)(values, images)["logits"])
    inside = (slice(None), slice(1, -1), slice(1, -1))  # one pixel less: the bottleneck is 3x3
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=1e-4 * ours.std())
    assert np.abs(theirs - ours).max() > 1e-2 * ours.std()


def other_classes(config):
    other = config.copy_and_resolve_references()
    other.model.num_classes = 3
    return other


def test_a_run_of_other_classes_starts_from_a_run(config, tmp_path):
    """From an equalized run, an import and a file alike, with the classifiers left out."""
    _, theirs = saved_run(config, tmp_path / "run")
    model, ours = drawn(other_classes(config), seed=1)
    plain = {name: theirs[name] for name in ("params", "batch_stats")}
    files.write(tmp_path / "w.safetensors", export_weights(build(config.model).with_equalizer(mode="none"), plain))
    for source in (tmp_path / "run", tmp_path / "w.safetensors"):
        with pytest.raises(ValueError, match="--config.init_skip=classifier"):
            start_from(source, model, jax.device_put(ours))
        with pytest.raises(ValueError, match="init_skip has 'conv_sge', which is found in no parameter"):
            start_from(source, model, jax.device_put(ours), "classifier,conv_sge")
        for skip in ("classifier", "conv_seg/", ("^decoder/conv_seg", "^auxiliary/")):
            params = start_from(source, model, jax.device_put(ours), skip)["params"]
            assert equal(params["encoder"], theirs["params"]["encoder"])
            assert equal(params["decoder"]["bottleneck"], theirs["params"]["decoder"]["bottleneck"])
            assert equal(params["decoder"]["conv_seg"], ours["params"]["decoder"]["conv_seg"])
            of_auxiliary = ours if "^auxiliary/" in skip else theirs
            assert equal(params["auxiliary"]["convs_0"], of_auxiliary["params"]["auxiliary"]["convs_0"])
    with pytest.raises(ValueError, match="init_skip has '\\(', which is no regular expression"):
        start_from(tmp_path / "run", model, jax.device_put(ours), "(")


def test_an_import_leaves_out_what_init_skip_names(config, tmp_path, capsys):
    model, variables = drawn(config)
    files.write(tmp_path / "w.safetensors", export_weights(model, variables))
    other = other_classes(config)
    other.init_skip = "classifier"
    run_import(other, tmp_path / "w.safetensors", tmp_path / "imported")
    assert "skipped 4: left out, as asked" in capsys.readouterr().out
    saved, loaded = checkpoints.load_for_inference(tmp_path / "imported")
    assert saved.init_skip == "" and loaded["params"]["decoder"]["conv_seg"]["bias"].shape == (3,)


def test_the_classifier_of_dupsampling_is_its_code_and_its_fit(tmp_path):
    """Codes mean something by the fit alone, which is one of the classes."""
    model = tiny.network("dupsampling", auxiliary=True)
    skip = Skip("classifier", model)
    assert skip("decoder/dupsample/kernel") and skip("decoder/dupsample/log_temperature") and skip("decoder/code/bias")
    assert skip("auxiliary/conv_seg/kernel")
    assert not skip("decoder/bottleneck/block/conv/kernel") and not skip("encoder/conv_seg/kernel")


def call(*arguments):
    done = subprocess.run([sys.executable, "-m", "se_jax.importers", *arguments], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def test_the_command_line(tmp_path):
    done = call("--list")
    assert done.returncode == 0
    assert "ResNet" in done.stdout and "torchvision" in done.stdout and "UPerHead" in done.stdout
    done = call("--source=absent.pth", "--config=configs/shapes_aspp.py", f"--output={tmp_path / 'x'}")
    assert done.returncode == 1 and "absent.pth is no file" in done.stderr
    assert "give --source, --config and --output" in call().stderr
