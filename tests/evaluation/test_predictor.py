"""Prediction with a finished run: masks, overlays, and an error for everything that can be wrong."""

import io
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

import se_jax
from se_jax.config import recipes
from se_jax.evaluation import inference
from se_jax.evaluation import predictor as predict
from se_jax.models import build

NAMES = tuple("abcdefghi")
PALETTE = np.arange(27, dtype=np.uint8).reshape(9, 3) * 9


@pytest.fixture(scope="module")
def trained():
    """(config, random variables) of a tiny network."""
    config = recipes.load("shapes_aspp")
    config.model.encoder.width = 8
    config.model.equalizer.mode = "none"
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    random = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return random.normal(0, np.prod(leaf.shape[:3]) ** -0.5, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return config, jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture
def workdir(trained, tmp_path, monkeypatch):
    """A run's directory; the checkpoint itself is given by hand."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "labels.json").write_text(json.dumps({"names": NAMES, "palette": PALETTE.tolist()}))
    monkeypatch.setattr(predict.checkpoints, "load_for_inference", lambda workdir, which: trained)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three pictures of two sizes, one in a sub-folder, and a file that is none."""
    random = np.random.default_rng(0)
    path = tmp_path / "pictures"
    (path / "more").mkdir(parents=True)
    for name, size in (("one.png", (24, 32)), ("two.jpg", (32, 24)), ("more/one.png", (24, 32))):
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path / name)
    (path / "notes.txt").write_text("no picture")
    return path


def test_predict_is_what_the_evaluation_computes(workdir, trained, folder):
    predictor = se_jax.load(workdir)
    image = predict.read_image(folder / "one.png")
    mask = predictor.predict(image)
    assert mask.shape == (24, 32) and mask.dtype == np.uint8 and len(np.unique(mask)) > 1
    config, variables = trained
    expected = inference.build(build(config.model), inference.Protocol()).class_ids(variables, image[None])[0]
    np.testing.assert_array_equal(mask, expected)
    assert predictor.names == NAMES


def test_learnt_fusion_weights_are_constants():
    config = recipes.load("shapes_eseg")
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    predictor = predict.Predictor(config, variables, NAMES, PALETTE)
    weights = predictor._variables["params"]["decoder"]["sum"]
    assert weights.keys() == {"weights"}
    np.testing.assert_allclose(weights["weights"], np.full((6, 32), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((1, 4, 4, 3), np.uint8)])
def test_another_kind_of_image_is_refused(workdir, image):
    with pytest.raises(ValueError, match="uint8"):
        se_jax.load(workdir).predict(image)


def test_a_folder_gives_masks_and_overlays(workdir, folder, tmp_path):
    predictor, output = predict.load(workdir), tmp_path / "out" / "deep"
    done, errors = predict.predict_files(predictor, folder, output)
    assert (done, errors) == (3, [])
    found = sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))
    names = ["more/one_mask.png", "more/one_overlay.png", "one_mask.png"]
    assert found == [*names, "one_overlay.png", "two_mask.png", "two_overlay.png"]
    with Image.open(output / "two_mask.png") as picture:
        assert picture.mode == "P" and picture.size == (24, 32)
        mask = predictor.predict(predict.read_image(folder / "two.jpg"))
        np.testing.assert_array_equal(np.asarray(picture), mask)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE[mask])
    image = predict.read_image(folder / "one.png").astype(float)
    overlay = np.asarray(Image.open(output / "one_overlay.png")).astype(float)
    colors = PALETTE[np.asarray(Image.open(output / "one_mask.png"))]
    assert np.abs(overlay - (image + colors) / 2).max() <= 0.5


def test_output_below_the_input_is_not_predicted_again(workdir, folder):
    predictor = predict.load(workdir)
    for _ in range(2):
        assert predict.predict_files(predictor, folder, folder / "out")[0] == 3


def test_one_file_and_equal_stems(workdir, folder, tmp_path):
    predictor = predict.load(workdir)
    assert predict.predict_files(predictor, folder / "two.jpg", tmp_path / "a") == (1, [])
    (folder / "one.jpg").write_bytes((folder / "two.jpg").read_bytes())
    predict.predict_files(predictor, folder, tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").glob("one*_mask.png")} == {"one_mask.png", "one.png_mask.png"}


def test_unreadable_files_are_named_and_the_others_done(workdir, folder, tmp_path):
    (folder / "two.jpg").write_bytes((folder / "two.jpg").read_bytes()[:300])
    (folder / "zero.png").write_bytes(b"nothing of the kind")
    done, errors = predict.predict_files(predict.load(workdir), folder, tmp_path / "out")
    assert done == 2 and len(errors) == 2
    assert "two.jpg: the image cannot be decoded (300 bytes): " in errors[0]
    assert "zero.png: the image cannot be decoded (19 bytes): its content is no picture's; expected PNG or" in errors[1]


def test_what_could_hang_or_fill_the_memory_is_left_out_and_the_others_done(workdir, folder, tmp_path):
    bomb = io.BytesIO()
    Image.new("L", (14000, 14000)).save(bomb, "PNG")
    (folder / "a_large.png").write_bytes(bomb.getvalue())
    os.mkfifo(folder / "b_pipe.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "c.gif")
    (folder / "c.gif").rename(folder / "c.png")
    (folder / "d.png").symlink_to(folder / "nowhere")
    (folder / "e.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    done, errors = predict.predict_files(predict.load(workdir), folder, tmp_path / "out")
    assert done == 3 and [error.split("/")[-1].split(".png")[0] for error in errors] == ["a_large", "b_pipe", *"cde"]
    for error, words in zip(
        errors, ("14000x14000", "no regular file", "GIF", "No such file", "PostScript"), strict=True
    ):
        assert words in error
    with pytest.raises(ValueError, match="expected at most data.max_pixels=700"):
        predict.read_image(folder / "one.png", max_pixels=700)


def test_a_prediction_that_does_not_fit_is_left_out(workdir, folder, tmp_path, monkeypatch):
    predictor = predict.load(workdir)
    whole = predictor.predict

    def fail(image):
        if image.shape[0] == 32:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return whole(image)

    monkeypatch.setattr(predictor, "predict", fail)
    done, (error,) = predict.predict_files(predictor, folder, tmp_path / "out")
    assert done == 2 and "two.jpg or its prediction does not fit into memory" in error


def test_photos_are_upright(workdir, folder, tmp_path):
    """The mask lies as viewers show the photo, whatever way it is stored."""
    picture = Image.open(folder / "one.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("png", "tif", "webp"):
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        turned.save(folder / f"turned.{form}", exif=exif, **({"lossless": True} if form == "webp" else {}))
        np.testing.assert_array_equal(predict.read_image(folder / f"turned.{form}"), np.asarray(picture))
    predictor = predict.load(workdir)
    predict.predict_files(predictor, folder / "turned.png", tmp_path / "out")
    with Image.open(tmp_path / "out" / "turned_mask.png") as mask:
        assert mask.size == picture.size and mask.getexif().get(0x0112) is None
        np.testing.assert_array_equal(np.asarray(mask), predictor.predict(np.asarray(picture)))


def test_16_bit_images_are_named_or_scaled(workdir, trained, folder, tmp_path):
    values = (np.asarray(Image.open(folder / "one.png"))[..., 0].astype(np.uint16) + 1) * 16 - 1
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(values).save(folder / name)
        with pytest.raises(ValueError, match=f"{name}: the image has 16 bits a channel"):
            predict.read_image(folder / name)
        image = predict.read_image(folder / name, image_bits=12)
        np.testing.assert_allclose(image[..., 0], values * (255 / 4095), atol=0.51)
    predictor = predict.load(workdir)
    done, errors = predict.predict_files(predictor, folder, tmp_path / "a")
    assert done == 3 and len(errors) == 2
    assert predict.predict_files(predictor, folder, tmp_path / "b", image_bits=12) == (5, [])


def test_missing_things_are_named(workdir, trained, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no directory"):
        predict.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        predict.find_images(folder / "three.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image below"):
        predict.find_images(tmp_path / "empty")
    with pytest.raises(OSError, match="cannot be written"):
        predict.predict_files(predict.load(workdir), folder, folder / "notes.txt")
    (workdir / "labels.json").unlink()
    with pytest.raises(FileNotFoundError, match="labels.json"):
        predict.load(workdir)


def test_a_workdir_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        predict.load(tmp_path)


def test_without_tensorflow_pillow_reads_the_same_pixels_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    for name in ("a.png", "grey.png"):
        expected = predict.read_image(tmp_path / name)
        np.testing.assert_array_equal(predict._read_with_pillow(tmp_path / name, None), expected)
    assert predict.read_image(tmp_path / "a.png").shape == (9, 6, 3)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("nothing of the kind")
    for name, message in (("deep.png", "more than 8 bits"), ("text.png", "is no PNG"), ("none.png", "no regular file")):
        with pytest.raises(ValueError, match=message):
            predict._read_with_pillow(tmp_path / name, None)
    with pytest.raises(ValueError, match="too large"):
        predict._read_with_pillow(tmp_path / "a.png", 10)
