"""Every format, run by its own runtime, gives what `predict` gives; and what cannot be exported is named."""

import io
import json
import os
import runpy
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import jax
import numpy as np
import pytest
from PIL import Image

import se_jax
from se_jax.exporters import FORMATS, export
from tests import tiny

SIZE = (72, 96)


@pytest.fixture(scope="module")
def model():
    """UPer on a tiny ResNet with measured equalizers, and windows that overlap."""
    encoder = {"name": "resnet", **tiny.ENCODER, "width": 8}
    model = se_jax.create({"name": "uper", "channels": 8}, encoder, classes=["road", "sky", "car", "tree", "sign"])
    model.config.eval.update({"mode": "slide", "window": (64, 64), "stride": (48, 48), "scale": (128, 80)})
    model.calibrate(list(images(8, seed=1)))
    return model


def images(count: int, seed: int = 0, size=SIZE) -> np.ndarray:
    """Smooth pictures, so that few pixels lie between two classes: uint8 [count, *size, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 5, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize(size[::-1])) for image in coarse])


def run_stablehlo(path, x):
    return np.asarray(jax.export.deserialize(bytearray(path.read_bytes())).call(x))


def run_savedmodel(path, x):
    import tensorflow as tf

    (found,) = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(x)).values()
    return found.numpy()


def run_tflite(path, x):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def run_onnx(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"])[0] == "road"
    return session.run(None, {"images": x})[0]


RUNTIMES = {"stablehlo": run_stablehlo, "savedmodel": run_savedmodel, "tflite": run_tflite, "onnx": run_onnx}


def test_every_format_has_a_runtime_here():
    assert RUNTIMES.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_the_ids_of_predict(model, name, tmp_path):
    path, any_batch = tmp_path / "network", name != "tflite"
    beside = export(model, path, name, SIZE, batch=None if any_batch else 2)
    x = images(2)
    expected = np.stack(model.predict(x, exact=True))
    assert len(np.unique(expected)) > 2
    found = RUNTIMES[name](path, x)
    assert found.dtype == np.uint8 and np.mean(found == expected) >= 0.999
    if any_batch:
        np.testing.assert_array_equal(RUNTIMES[name](path, x[:1]), found[:1])
    said = json.loads(beside.read_text())
    assert said["classes"] == list(model.names) and said["output"]["dtype"] == "uint8"
    assert said["config"]["model"]["num_classes"] == 5 and said["input"]["shape"][1:] == [*SIZE, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network", "network.json"]


def test_probabilities_are_those_of_predict_proba(model, tmp_path):
    export(model, tmp_path / "p", "stablehlo", SIZE, outputs="probabilities")
    found = run_stablehlo(tmp_path / "p", images(1))
    np.testing.assert_allclose(found[0], model.predict_proba(images(1)[0], exact=True), atol=1e-4)


def test_whole_images_need_no_restoration_of_scores_that_are_no_logits(tmp_path):
    head, _ = tiny.HEADS["mask2former"]
    options = {"name": "mask2former", "channels": 32, **tiny.QUERIES, **tiny.PIXELS}
    model = se_jax.create(options, {"name": "resnet", **tiny.ENCODER, "width": 8}, classes=head.num_classes)
    x = images(1, size=(64, 64))
    export(model, tmp_path / "p", "stablehlo", (64, 64), outputs="probabilities")
    np.testing.assert_allclose(run_stablehlo(tmp_path / "p", x)[0], model.predict_proba(x[0], exact=True), atol=1e-5)


@pytest.mark.parametrize("name", ["stablehlo", "onnx"])
def test_a_network_of_queries_on_windows_in_even_steps(name, tmp_path):
    """EoMT, on two windows that overlap, of the image made smaller."""
    encoder = {"name": "vit", "variant": "dinov2_small_reg", "width": 16, "depth": 1, "heads": 2, "patch": 8}
    head = {"name": "eomt", "queries": 8, "blocks": 1}
    model = se_jax.create(head, encoder | {"grid": (6, 6)}, classes=["road", "sky", "car", "tree", "sign"])
    model.config.eval.update({"mode": "spread", "window": (48, 48), "size_multiple": 1})
    variables = model.init()
    masks = variables["params"]["decoder"]["predictor"]["mask_head_4"]
    masks["kernel"] = 20 * masks["kernel"]  # at birth all queries have the same mask
    model.variables = variables
    export(model, tmp_path / "network", name, SIZE)
    x = images(1)
    expected, found = model.predict(x[0], exact=True), RUNTIMES[name](tmp_path / "network", x)[0]
    assert len(np.unique(expected)) > 2 and np.mean(found == expected) >= 0.999


def test_what_cannot_be_is_named_and_nothing_is_left(model, tmp_path):
    path = tmp_path / "network"
    for arguments, found in (
        ({"format": "caffe"}, "format is 'caffe'; expected one of stablehlo"),
        ({"batch": 0}, "batch is 0"),
        ({"outputs": "logits"}, "outputs is 'logits'; expected one of ids, probabilities"),
        ({"format": "tflite", "batch": None}, "batches of one size: give --batch"),
    ):
        with pytest.raises(ValueError, match=found):
            export(model, path, **{"format": "stablehlo", "size": SIZE, **arguments})
    path.touch()
    with pytest.raises(FileExistsError, match="give another --output"):
        export(model, path, "stablehlo", SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["network"]


def test_the_command_exports_a_run(model, tmp_path):
    model.save(tmp_path / "run")
    output = tmp_path / "file"
    given = [f"--workdir={tmp_path / 'run'}", "--format=stablehlo", f"--output={output}", "--nocompilation_cache"]

    def command(*options):
        process = [sys.executable, "-m", "se_jax.export", *given, *options]
        return subprocess.run(process, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})

    ended = command("--size=80x64", "--config.eval.tta=True")
    assert ended.returncode == 1 and ended.stderr.endswith("give --config.eval.tta=False\n"), ended.stderr
    ended = command("--size=80x64", "--config.eval.mode=whole", "--config.eval.scale=None")
    assert ended.returncode == 0 and ended.stdout.startswith(f"{output}: stablehlo, images of 80x64"), ended.stderr
    changed = se_jax.load(tmp_path / "run")
    changed.config.eval.update({"mode": "whole", "scale": None})
    x = images(1, size=(80, 64))
    assert np.mean(run_stablehlo(output, x)[0] == changed.predict(x[0], exact=True)) >= 0.999


def test_the_command_names_a_size_or_a_batch_that_cannot_be():
    command = runpy.run_module("se_jax.export")
    for text in ("large", "0,64", "64", "-1x2"):
        with pytest.raises(ValueError, match="expected HEIGHT,WIDTH"):
            command["_size"](text)
    assert command["_size"]("(64, 80)") == (64, 80) and command["_batch"]("any") is None
    with pytest.raises(ValueError, match="expected a number of images, or any"):
        command["_batch"]("some")


def test_the_server_answers_with_masks(model, tmp_path):
    path = tmp_path / "network.onnx"
    export(model, path, "onnx", SIZE)
    serve = runpy.run_path("examples/serve.py")
    with serve["Server"](("127.0.0.1", 0), str(path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        assert json.loads(urllib.request.urlopen(url).read())["classes"][0] == "road"
        written = io.BytesIO()
        Image.fromarray(images(1)[0]).save(written, "PNG")
        mask = Image.open(io.BytesIO(urllib.request.urlopen(url, data=written.getvalue()).read()))
        assert np.mean(np.asarray(mask) == model.predict(images(1)[0], exact=True)) >= 0.999
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(url, data=b"no image")
        server.shutdown()
