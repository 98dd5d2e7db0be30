"""The page of augmented pictures: those of training, complete, and loading nothing."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

import data_pipelines
from data_pipelines import browse
from data_pipelines import stored as stored_config
from data_pipelines.labels import DataError
from se_jax.config import options
from tests.data_pipelines import trees
from tests.data_pipelines.test_pipeline import joined


@pytest.fixture
def config(folder):
    config = options.get_config()
    config.seed = 3
    config.data.update(name="folder", dir=str(folder), batch_size=2, crop=(16, 24))
    return config


def pictures(page, form):
    """The embedded pictures of one format."""
    found = re.findall(rf'src="data:image/{form};base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]


def test_the_page_shows_what_training_sees_first(config, folder):
    page = browse.page(config, 5)
    images, masks = pictures(page, "jpeg"), pictures(page, "png")
    assert len(images) == len(masks) == 5 and page.count("<figure>") == page.count("</figure>") == 5
    data = data_pipelines.build(config.data)
    batches = data_pipelines.train_batches(data, config.data, seed=3, start_step=0)
    batch = joined(list(itertools.islice(batches, 3)))
    palette = data.labels.palette
    for image, mask, truth, label, size in zip(
        images, masks, batch["image"], batch["label"], batch["size"], strict=False
    ):
        assert np.abs(np.asarray(image).astype(int) - truth).mean() < 12  # JPEG
        shown = np.asarray(mask.convert("RGB"))
        for k in range(3):
            np.testing.assert_array_equal(shown[label == k], np.broadcast_to(palette[k], ((label == k).sum(), 3)))
        assert (shown[size[0] :] == 128).all() and (shown[:, size[1] :] == 128).all()
        assert f"{size[1]} x {size[0]}: " in page
    names = re.findall(r"<figcaption>([^<]+)<", page)
    assert sorted(names) == [f"im{k}.png" for k in range(5)]
    # Image k of the folder holds 10 k of red, unless photometric distortion changes it.
    config.data.update(photometric=False, ratio_range=(1.0, 1.0), crop=(18, 18), flip=0.0)
    page = browse.page(config, 5)
    red = [np.asarray(image)[-1, -1, 0] / 10 for image in pictures(page, "jpeg")]
    assert [f"im{k:.0f}.png" for k in red] == re.findall(r"<figcaption>([^<]+)<", page) == names


def test_the_page_loads_nothing_and_escapes_names(config, folder):
    (folder / "classes.json").write_text('{"classes": ["<ground>", "thing", "absent & far"]}')
    page = browse.page(config, 2)
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "@import" not in page and "url(" not in page
    assert "&lt;ground&gt;" in page and "<ground>" not in page
    assert "Not in these pictures: absent &amp; far." in page and ">ignored</span>" in page


def test_ignored_pixels_are_striped_and_padding_is_grey():
    label = np.full((12, 14), 255, np.uint8)
    label[:, :7] = 1
    mask = browse.overlay(label, (9, 14), np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    ids = np.asarray(mask)
    assert (ids[:9, :7] == 1).all() and (ids[9:] == browse._PADDING).all()
    assert set(np.unique(ids[:9, 7:])) == {browse._STRIPE, browse._CLEAR}
    assert np.asarray(mask.convert("RGB"))[0, 0].tolist() == [4, 5, 6]
    assert label[0, 13] == 255  # not painted on


def test_skipped_files_are_named(config, folder):
    path = folder / "images" / "train" / "im2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="im2.png: the image cannot be decoded"):
        browse.page(config, 5)
    config.data.on_error = "skip"
    assert "<p>skipped: " in browse.page(config, 5)


def test_a_stored_config_is_a_config(config, tmp_path):
    """That of a run, with sequences as tuples; and what cannot be is named."""
    (tmp_path / "config.json").write_text(config.to_json())
    stored = stored_config.get_config(str(tmp_path / "config.json"))
    assert stored.data.crop == (16, 24) and browse.page(stored, 1) == browse.page(config, 1)
    for content in ("", "{", "[]", "{}"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="config.json is no config of a run"):
            stored_config.get_config(str(tmp_path / "config.json"))
    for seed in (None, -1, 10**20, "x", 1.5):
        with stored.ignore_type():
            stored.seed = seed
        with pytest.raises(ValueError, match="seed is .*expected a whole number"):
            browse.page(stored, 1)
    for change in ({"dir": None}, {"train_split": 3}):
        with stored.ignore_type(), pytest.raises(DataError, match=f"data.{next(iter(change))}="):
            stored.data.update(change)
            data_pipelines.check_config(stored.data)
        stored.data.update(dir=config.data.dir)
    with pytest.raises(DataError, match="data.name is missing"):
        data_pipelines.check_config({})
    with pytest.raises(DataError, match="data is None"):
        data_pipelines.check_config(None)


def test_published_data_and_generated_shapes(tmp_path):
    trees.write_ade20k(tmp_path)
    config = options.get_config()
    config.data.update(name="ade20k", dir=str(tmp_path), batch_size=2, crop=(8, 8), scale=(16, 12))
    page = browse.page(config, 3)
    assert all(words in page for words in ("<figcaption>ADE_train_00000001.jpg<", "</i>wall", "</i>flag"))
    config.data.update(name="shapes", dir="", crop=(32, 32), num_train=4, num_val=1)
    assert browse.page(config, 2).count("<figure>") == 2
