"""Training in one call on plain folders: its config, the labels it writes, and that the command reproduces the run."""

import json

import numpy as np
import pytest
from PIL import Image

import se_jax
from se_jax.config import own_data, recipes, stored
from se_jax.training import simple

HEAD, ENCODER = {"name": "segformer", "channels": 8}, {"name": "resnet", "depth": 18, "width": 4}
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


def test_one_call_trains_and_its_config_reproduces_the_run(folders, tmp_path, capsys):
    out = tmp_path / "run"
    data = {**folders, "classes": CLASSES, "ignore": [255]}
    changes = {"log.every_steps": 1, "calibration.check_images": 0, "eval.batch_size": 8}
    model = se_jax.train(out=out, model=(HEAD, ENCODER), data=data, steps=2, changes=changes)
    assert model.names == ("background", "car")
    assert json.loads((out / "metrics.json").read_text())["step"] == 2
    assert json.loads((out / "classes.json").read_text())["ids"] == [[0], [1, 2]]
    said = capsys.readouterr().err
    assert "4 images for training, 2 for validation: 56x40, crop 56x40; 8 a step" in said
    assert "First step done" in said and "step 2/2  loss" in said and "images a second" in said
    config = stored.read(out / "config.json")
    assert config.data.crop == (40, 56) and config.data.train_dirs[0] == str(folders["train"]["images"])
    again = se_jax.train_and_evaluate(recipes.load(str(out / "config.json")), tmp_path / "again")
    assert again["miou"] == json.loads((out / "metrics.json").read_text())["miou"]
    one = next(folders["val"]["images"].iterdir())
    np.testing.assert_array_equal(model.predict(one), se_jax.load(tmp_path / "again").predict(one))


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
    given = {"out": tmp_path / "run", "model": "uper/resnet18", "steps": 2} | change
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
