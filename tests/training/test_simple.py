"""Training in one call on plain folders: its config, the labels, and what is said of arguments that cannot be."""

import numpy as np
import pytest
from PIL import Image

import data_pipelines
import se_jax
from se_jax import run_config
from se_jax.config import own_data, recipes
from se_jax.models import build
from se_jax.training import records, simple, start

CLASSES = {0: "background", 1: {"name": "car", "ids": [1, 2]}}


@pytest.fixture
def folders(tmp_path):
    """Images and masks in four folders with nothing in common; ids 0, 1, 2 and 255."""
    rng, found = np.random.default_rng(0), {}
    for split, count in (("train", 4), ("val", 2)):
        images, masks = tmp_path / f"{split}-photos", tmp_path / "labels" / f"of {split}"
        for place in (images, masks):
            place.mkdir(parents=True)
        for k in range(count):
            mask = rng.choice(np.uint8([0, 1, 2, 255]), (40, 56), p=(0.5, 0.2, 0.2, 0.1))
            Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(images / f"{k}.jpg")
            Image.fromarray(mask).save(masks / f"{k}.png")
        found[split] = {"images": images, "masks": masks}
    return found


def test_one_call_is_the_run_of_its_config(folders, tmp_path, monkeypatch):
    """What training makes of the config is tested where training is; here, that the call makes the right one."""
    out, given = tmp_path / "run", []
    monkeypatch.setattr(simple, "train_and_evaluate", lambda config, out: given.append((config, out)))
    monkeypatch.setattr(simple, "load", lambda out: out)
    data = {**folders, "classes": CLASSES, "ignore": [255]}
    changes = {"optimizer.learning_rate": 0.5, "data.batch_size": 2}
    assert se_jax.train(out=out, model="segformer/mit_b0", data=data, steps=50, changes=changes) == out
    ((config, where),) = given
    assert where == out and (config.num_steps, config.optimizer.learning_rate) == (50, 0.5)
    assert config.optimizer.warmup_steps == 5 and config.model.auxiliary is None
    assert config.data.crop == (40, 56) and config.model.num_classes == 2
    start.check(config)
    start.check_network(config, build(config.model))

    (tmp_path / "config.json").write_text(config.to_json())
    stored = recipes.load(str(tmp_path / "config.json"))  # as --config takes it
    run_config.write(tmp_path, config)
    run_config.check(tmp_path, stored)
    opened = data_pipelines.build(stored.data)
    assert opened.labels.names == ("background", "car") and len(opened.train) == 4 and len(opened.val) == 2
    _, label = data_pipelines.read_example(opened.train, opened.labels, 0)
    mask = np.asarray(Image.open(folders["train"]["masks"] / "0.png"))
    np.testing.assert_array_equal(label, np.uint8([0, 1, 1] + [255] * 253)[mask])
    images, _ = data_pipelines.open_images(stored.data)
    assert images.image_name(1) == str(folders["val"]["images"] / "1.jpg")
    expected = "4 images for training, 2 for validation: 56x40, crop 56x40; 2 a step, 25 times each in 50 steps"
    assert records.data_line(stored, opened) == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "uper"}, "expected 'HEAD/ENCODER'"),
        ({"model": "uper/resnet5"}, "no encoder 'resnet5'; did you mean resnet50"),
        ({"data": {"train": {}}}, r"data\['train'\] is {}; expected {\"train\""),
        ({"data": {"trian": {}}}, "data has 'trian'"),
        ({"changes": {"optimizer.learning_rat": 1}}, "did you mean optimizer.learning_rate"),
        ({"data": {"classes": [{"nmae": "car"}]}}, "expected a name, or 'name', 'ids' and 'color'"),
        ({"data": {"classes": "car"}}, r"data\['classes'\] is 'car'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_built(folders, tmp_path, change, message):
    given = {"out": tmp_path / "run", "model": "uper/resnet10", "steps": 2} | change
    given["data"] = {**folders, "classes": CLASSES} | change.get("data", {})
    with pytest.raises(ValueError, match=message):
        se_jax.train(**given)


def test_classes_as_people_write_them():
    assert simple.classes(["sky", "road"]) == {"classes": ["sky", "road"], "ids": [[0], [1]], "ignore": []}
    coloured = simple.classes({7: {"name": "b", "color": (1, 2, 3)}, 5: {"name": "a", "color": (4, 5, 6)}}, [0])
    assert coloured == {"classes": ["a", "b"], "ids": [[5], [7]], "ignore": [0], "palette": [[4, 5, 6], [1, 2, 3]]}


def test_sizes_follow_from_the_images(tmp_path):
    root = tmp_path / "mine"
    (root / "images" / "train" / "more").mkdir(parents=True)
    (root / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    with pytest.raises(FileNotFoundError, match="holds no image"):
        recipes.load(f"mine:{root}")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (800, 600)).save(root / "images" / "train" / "a.jpg", exif=exif)
    (root / "images" / "train" / "b.png").write_bytes(b"nothing of the kind")
    config = recipes.load(f"mine:{root}")
    assert (config.data.crop, config.data.scale, config.model.num_classes) == ((512, 512), None, 3)
    Image.new("L", (480, 360)).save(root / "images" / "train" / "more" / "a.png")
    Image.new("L", (480, 360)).save(root / "images" / "train" / "more" / "b.png")
    config = recipes.load(f"mine:{root}")
    assert (config.data.crop, config.data.scale, config.data.dir) == ((360, 480), None, str(root))
    assert own_data.sizes(config, root / "images", 64).data.crop == (384, 512)
    for name in "cdefgh":
        Image.new("L", (4096, 2048)).save(root / "images" / "train" / f"{name}.png")
    config = recipes.load(f"mine:{root}")
    assert (config.data.crop, config.data.scale, config.eval.scale) == ((512, 512), (2048, 1024), (2048, 1024))
    with pytest.raises(ValueError, match="mine.py:mydata"):
        recipes.load("mine")
    with pytest.raises(FileNotFoundError, match="nowhere/classes.json is no file"):
        recipes.load("mine:nowhere")
