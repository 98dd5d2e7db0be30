"""A small folder data set, made anew for each test that asks for it."""

import json

import numpy as np
import pytest
from PIL import Image

from se_jax.config import options


def write_folder(root, sizes, classes=("ground", "thing", "other"), splits=("train", "val")):
    """`sizes`: (h, w) of each image of a split. Image k is flat, (10 k, 20, 30), but for a bright corner of class 1."""
    for split in splits:
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for k, (height, width) in enumerate(sizes):
            image = np.full((height, width, 3), (10 * k, 20, 30), np.uint8)
            label = np.zeros((height, width), np.uint8)
            image[: height // 2, : width // 2] = 200
            label[: height // 2, : width // 2] = 1
            label[-1, -1] = 255
            Image.fromarray(image).save(root / "images" / split / f"im{k}.png")
            Image.fromarray(label).save(root / "annotations" / split / f"im{k}.png")
    (root / "classes.json").write_text(json.dumps({"classes": list(classes)}))
    return root


@pytest.fixture
def folder(tmp_path):
    """Directory of a data set of five images a split, in two sizes."""
    return write_folder(tmp_path / "set", [(20, 30), (24, 18), (20, 30), (24, 18), (20, 30)])


@pytest.fixture
def folder_config(folder):
    config = options.get_config().data
    config.update(name="folder", dir=str(folder), batch_size=4, crop=(16, 24))
    return config


@pytest.fixture
def shapes_config():
    config = options.get_config().data
    config.update(batch_size=4, crop=(32, 40), image_size=(32, 48), num_train=10, num_val=5)
    return config
