"""Prediction with a finished run: masks, overlays, and an error for everything that can be wrong."""

import io
import json
import os
import threading

import jax
import numpy as np
import pytest
from PIL import Image

import se_jax
from se_jax.config import recipes
from se_jax.evaluation import files, inference, many
from se_jax.evaluation import images as reading
from se_jax.evaluation import predictor as predict
from se_jax.models import DECODERS, ENCODERS, build, names

NAMES = tuple("abcdefghi")
PALETTE = np.arange(27, dtype=np.uint8).reshape(9, 3) * 9


@pytest.fixture(scope="module")
def trained():
    """(config, random variables) of a tiny network."""
    config = recipes.load("shapes_aspp")
    config.model.encoder.update(depth=10, width=8)
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
    image = reading.read_image(folder / "one.png")
    mask = predictor.predict(image, exact=True)
    assert mask.shape == (24, 32) and mask.dtype == np.uint8 and len(np.unique(mask)) > 1
    config, variables = trained
    expected = inference.build(build(config.model), inference.Protocol()).class_ids(variables, image[None])[0]
    np.testing.assert_array_equal(mask, expected)
    assert predictor.names == NAMES


def test_learnt_fusion_weights_are_constants():
    config = recipes.load("shapes_eseg")
    shapes = jax.eval_shape(build(config.model).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    predictor = predict.Model(config, variables, NAMES, PALETTE)
    weights = predictor._prepared[1]["params"]["decoder"]["sum"]
    assert weights.keys() == {"weights"}
    np.testing.assert_allclose(weights["weights"], np.full((6, 32), 1 / 6), rtol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((1, 4, 4), np.uint8)])
def test_another_kind_of_image_is_refused(workdir, image):
    with pytest.raises(ValueError, match="uint8"):
        se_jax.load(workdir).predict(image)


def test_a_folder_gives_masks_and_overlays(workdir, folder, tmp_path):
    predictor, output = predict.load(workdir), tmp_path / "out" / "deep"
    done, errors = files.predict_files(predictor, folder, output)
    assert (done, errors) == (3, [])
    found = sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))
    names = ["more/one_mask.png", "more/one_overlay.png", "one_mask.png"]
    assert found == [*names, "one_overlay.png", "two_mask.png", "two_overlay.png"]
    areas = json.loads((output / "areas.json").read_text())
    assert areas["classes"] == list(NAMES) and list(areas["images"]) == ["more/one", "one", "two"]
    assert sum(areas["images"]["two"]["pixels"].values()) == 24 * 32 and areas["images"]["two"]["size"] == [32, 24]
    with Image.open(output / "two_mask.png") as picture:
        assert picture.mode == "P" and picture.size == (24, 32)
        mask = predictor.predict(reading.read_image(folder / "two.jpg"))
        np.testing.assert_array_equal(np.asarray(picture), mask)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE[mask])
    image = reading.read_image(folder / "one.png").astype(float)
    overlay = np.asarray(Image.open(output / "one_overlay.png")).astype(float)
    colors = PALETTE[np.asarray(Image.open(output / "one_mask.png"))]
    assert np.abs(overlay - (image + colors) / 2).max() <= 0.5


def test_output_below_the_input_is_not_predicted_again(workdir, folder):
    predictor = predict.load(workdir)
    for _ in range(2):
        assert files.predict_files(predictor, folder, folder / "out")[0] == 3


def test_one_file_and_equal_stems(workdir, folder, tmp_path):
    predictor = predict.load(workdir)
    assert files.predict_files(predictor, folder / "two.jpg", tmp_path / "a") == (1, [])
    (folder / "one.jpg").write_bytes((folder / "two.jpg").read_bytes())
    files.predict_files(predictor, folder, tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").glob("one*_mask.png")} == {"one_mask.png", "one.png_mask.png"}


def test_unreadable_files_are_named_and_the_others_done(workdir, folder, tmp_path):
    (folder / "two.jpg").write_bytes((folder / "two.jpg").read_bytes()[:300])
    (folder / "zero.png").write_bytes(b"nothing of the kind")
    done, errors = files.predict_files(predict.load(workdir), folder, tmp_path / "out")
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
    done, errors = files.predict_files(predict.load(workdir), folder, tmp_path / "out")
    assert done == 3 and [error.split("/")[-1].split(".png")[0] for error in errors] == ["a_large", "b_pipe", *"cde"]
    for error, words in zip(
        errors, ("14000x14000", "no regular file", "GIF", "No such file", "PostScript"), strict=True
    ):
        assert words in error
    with pytest.raises(ValueError, match="expected at most data.max_pixels=700"):
        reading.read_image(folder / "one.png", max_pixels=700)


def test_a_prediction_that_does_not_fit_is_left_out(workdir, folder, tmp_path, monkeypatch):
    predictor = predict.load(workdir)
    whole = predictor.call

    def fail(what, images, goal):
        if images.shape[1] == 32:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return whole(what, images, goal)

    monkeypatch.setattr(predictor, "call", fail)
    done, (error,) = files.predict_files(predictor, folder, tmp_path / "out")
    assert done == 2 and "two.jpg or its prediction does not fit into memory" in error


def test_photos_are_upright(workdir, folder, tmp_path):
    """The mask lies as viewers show the photo, whatever way it is stored."""
    picture = Image.open(folder / "one.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("png", "tif", "webp"):
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        turned.save(folder / f"turned.{form}", exif=exif, **({"lossless": True} if form == "webp" else {}))
        np.testing.assert_array_equal(reading.read_image(folder / f"turned.{form}"), np.asarray(picture))
    predictor = predict.load(workdir)
    files.predict_files(predictor, folder / "turned.png", tmp_path / "out")
    with Image.open(tmp_path / "out" / "turned_mask.png") as mask:
        assert mask.size == picture.size and mask.getexif().get(0x0112) is None
        np.testing.assert_array_equal(np.asarray(mask), predictor.predict(np.asarray(picture)))


def test_16_bit_images_are_named_or_scaled(workdir, trained, folder, tmp_path):
    values = (np.asarray(Image.open(folder / "one.png"))[..., 0].astype(np.uint16) + 1) * 16 - 1
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(values).save(folder / name)
        with pytest.raises(ValueError, match=f"{name}: the image has 16 bits a channel"):
            reading.read_image(folder / name)
        image = reading.read_image(folder / name, image_bits=12)
        np.testing.assert_allclose(image[..., 0], values * (255 / 4095), atol=0.51)
    predictor = predict.load(workdir)
    done, errors = files.predict_files(predictor, folder, tmp_path / "a")
    assert done == 3 and len(errors) == 2
    assert files.predict_files(predictor, folder, tmp_path / "b", image_bits=12) == (5, [])


def test_missing_things_are_named(workdir, trained, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no directory"):
        predict.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        reading.find_images(folder / "three.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image below"):
        reading.find_images(tmp_path / "empty")
    with pytest.raises(OSError, match="cannot be written"):
        files.predict_files(predict.load(workdir), folder, folder / "notes.txt")
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
        expected = reading.read_image(tmp_path / name)
        np.testing.assert_array_equal(reading._read_with_pillow(tmp_path / name, None), expected)
    assert reading.read_image(tmp_path / "a.png").shape == (9, 6, 3)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    (tmp_path / "text.png").write_text("nothing of the kind")
    for name, message in (("deep.png", "more than 8 bits"), ("text.png", "is no PNG"), ("none.png", "no regular file")):
        with pytest.raises(ValueError, match=message):
            reading._read_with_pillow(tmp_path / name, None)
    with pytest.raises(ValueError, match="too large"):
        reading._read_with_pillow(tmp_path / "a.png", 10)


# ---- The handle ----


def tiny(**options):
    return se_jax.create({"name": "segformer", "channels": 8}, {"name": "resnet", "depth": 10, "width": 4}, **options)


def test_names_are_those_of_the_tables_and_others_are_answered_with_the_nearest():
    known = {"resnet50", "swin_tiny", "efficientnet_b0", "mit_b5", "xception65", "mobilenetv2"}
    assert known <= {*se_jax.list_encoders()}
    assert se_jax.list_heads() == list(DECODERS)
    families = {name for name in ENCODERS if name not in ("resnet", "xception", "mobilenetv2")}
    assert families == set(names.VARIANTS)
    for head, encoder, near in (("uperr", "resnet50", "uper"), ("uper", "ResNet-50", "resnet50")):
        with pytest.raises(ValueError, match=f"did you mean {near}"):
            se_jax.create(head, encoder, classes=3)


def test_every_head_and_every_family_of_encoders_can_be_made_by_name():
    shown = [(head, "dinov2_small" if head == "eomt" else "resnet10") for head in DECODERS]
    shown += [("uper", next(n for n in se_jax.list_encoders() if n.startswith(family))) for family in ENCODERS]
    for head, encoder in shown:
        model = se_jax.create(head, encoder, classes=3)
        assert model.network.decoder.num_classes == 3 and isinstance(model.network.decoder, DECODERS[head])


def test_a_model_is_saved_loaded_and_started_from(tmp_path):
    images = list(np.random.default_rng(0).integers(0, 255, (2, 40, 48, 3), dtype=np.uint8))
    model = tiny(classes=["sky", "road"], equalizer="none")
    mask = model.predict(images[0])
    model.save(tmp_path / "kept")
    again = se_jax.load(tmp_path / "kept")
    assert again.names == ("sky", "road")
    np.testing.assert_array_equal(again.predict(images[0]), mask)
    other = tiny(classes=3, weights=str(tmp_path / "kept"), skip="classifier")
    ours, theirs = (jax.tree.leaves(each.parameters["encoder"]) for each in (other, model))
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="at least 2"):
        model.calibrate(images[:1])
    other.config.model.normalization = ((127.0,) * 3, (128.0,) * 3)
    other.save(tmp_path / "lite")  # the weights carry how they want images normalised
    model = tiny(classes=3, weights=str(tmp_path / "lite"))
    assert model.network.normalization == ((127.0,) * 3, (128.0,) * 3)
    with pytest.raises(ValueError, match="expected 'explicit' or 'none'"):
        tiny(classes=2, equalizer="folded")


def test_what_predict_takes_and_gives(workdir, folder):
    model = se_jax.load(workdir)
    paths = reading.find_images(folder)
    arrays = [reading.read_image(path) for path in paths]
    by_folder = model.predict(folder)
    assert list(by_folder) == paths
    of_each = [model.predict(array) for array in arrays]
    one = Image.fromarray(arrays[1])
    for found in (by_folder.values(), model.predict(arrays), model.predict(map(str, paths)), [model.predict(paths[0])]):
        for ours, theirs in zip(found, of_each, strict=False):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(model.predict(one), of_each[1])
    ids, confidence = model.predict(one, confidence=True)
    shares = model.predict_proba(one)
    assert shares.shape == (*ids.shape, 9) and shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(shares.argmax(-1), ids)
    np.testing.assert_allclose(shares.max(-1), confidence, atol=1e-6)
    together = model.predict(np.stack([arrays[1]] * 3), batch_size=2)
    assert len(together) == 3 and all((mask == of_each[1]).all() for mask in together)


def test_probabilities_and_masks_of_classes_as_files(workdir, folder, tmp_path):
    model = se_jax.load(workdir)
    files.predict_files(model, folder / "one.png", tmp_path / "npz", probabilities="npz")
    files.predict_files(model, folder / "one.png", tmp_path / "png", probabilities="png", classes=("b", "c"))
    with np.load(tmp_path / "npz" / "one_probabilities.npz") as found:
        shares = found["probabilities"].astype(np.float32)
        assert list(found["classes"]) == list(NAMES)
    mask = np.asarray(Image.open(tmp_path / "png" / "one_mask.png"))
    for k, name in ((1, "b"), (2, "c")):
        values = np.asarray(Image.open(tmp_path / "png" / f"one_probability_{name}.png"))
        np.testing.assert_allclose(values / 65535, shares[..., k], atol=1e-3)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "png" / f"one_{name}.png")), 255 * (mask == k))
    assert not (tmp_path / "png" / "one_probability_a.png").exists()
    with pytest.raises(ValueError, match="no class x; the network's are a, b"):
        files.predict_files(model, folder, tmp_path / "other", classes=("x",))


# ---- Many sizes ----


def test_two_hundred_sizes_become_twelve_at_most_which_hold_them():
    sizes = [tuple(map(int, size)) for size in np.random.default_rng(0).integers(200, 1400, (200, 2))]
    goals = many.few(sizes)
    assert len(set(goals.values())) <= 12
    assert all(goal[axis] >= size[axis] and not goal[axis] % 32 for size, goal in goals.items() for axis in (0, 1))
    grown = sum(np.prod(goals[size]) for size in sizes) / sum(np.prod(size) for size in sizes)
    assert grown < 1.5
    assert many.few([(480, 360)] * 3) == {(480, 360): (480, 384)}


def test_every_image_is_planned_once_and_few_places_are_filled_up():
    sizes = [(10, 10)] * 9 + [(20, 20)] * 2 + [None] + [(11, 10)]
    batches = many.plan(sizes, many.few([size for size in sizes if size]), 4)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(13))
    assert batches[-1] == many.Batch((11,), None, None, 1)
    assert {batch.goal for batch in batches[:-1]} == {(32, 32)}
    assert len({batch.places for batch in batches[:-1]}) == 1 and batches[0].places == 2  # 4 would leave 8 of 20 empty
    alike = many.plan([(10, 10)] * 7, {}, 4)
    assert [len(batch.indices) for batch in alike] == [4, 3] and all(batch.places == 4 for batch in alike)


def test_the_next_size_compiles_while_this_one_is_predicted(folder):
    asked = []

    def predict_(images, goal):
        asked.append((goal, images.shape, threading.current_thread() is threading.main_thread()))
        return list(images[..., 0])

    sizes = [(8, 8), (8, 8), (16, 16)]
    batches = many.plan(sizes, {size: size for size in sizes}, 1)
    found = list(many.predicted(batches, lambda i: np.full((*sizes[i], 3), i, np.uint8), predict_))
    assert [(index, int(result[0, 0])) for index, _, result in found] == [(2, 2), (0, 0), (1, 1)]
    assert ((8, 8), (1, 8, 8, 3), False) in asked and len(asked) == 4
    asked.clear()
    batches = many.plan([(8, 8)] * 5, {(8, 8): (8, 8)}, 2)
    assert len(list(many.predicted(batches, lambda _: np.zeros((8, 8, 3), np.uint8), predict_))) == 5
    assert [shape for _, shape, _ in asked] == [(2, 8, 8, 3)] * 3  # the last one is filled up: nothing compiles for it
