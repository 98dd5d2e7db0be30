import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import data_pipelines
from data_pipelines.labels import DataError, LabelError, LabelSpec
from data_pipelines.sources import FolderSource, read_classes, read_example
from se_jax.config import options

LABELS = LabelSpec.create(["ground", "thing", "other"])


def test_pairs_are_read_in_the_order_of_their_names(folder):
    source = FolderSource(folder, "train")
    assert len(source) == 5
    assert [os.path.basename(source[i][2]) for i in range(5)] == [f"im{i}.png" for i in range(5)]
    image, label = read_example(source, LABELS, 1)
    assert image.shape == (24, 18, 3) and image.dtype == np.uint8
    assert label.shape == (24, 18) and label.dtype == np.uint8
    assert image[-1, 0].tolist() == [10, 20, 30] and image[0, 0].tolist() == [200, 200, 200]
    assert set(np.unique(label)) == {0, 1, 255}
    assert source.size(1) == (24, 18)


def test_other_folder_names(folder):
    (folder / "images").rename(folder / "pictures")
    (folder / "annotations").rename(folder / "masks")
    assert len(FolderSource(folder, "val", "pictures", "masks")) == 5


def test_jpg_and_jpeg_images_and_other_files_beside_them(folder):
    for stem, ending in (("im0", "jpg"), ("im1", "JPEG")):
        path = folder / "images" / "train" / f"{stem}.png"
        Image.open(path).save(path.with_suffix(f".{ending}"))
        path.unlink()
    (folder / "images" / "train" / "notes.txt").write_text("x")
    (folder / "images" / "train" / "._im0.jpg").write_text("x")
    assert len(FolderSource(folder, "train")) == 5


def test_a_palette_annotation_gives_its_indices(folder):
    path = folder / "annotations" / "train" / "im0.png"
    _, before = read_example(FolderSource(folder, "train"), LABELS, 0)
    mask = Image.fromarray(np.asarray(Image.open(path)), mode="P")
    mask.putpalette([value % 256 for value in range(7, 7 + 768)])
    mask.save(path)
    _, after = read_example(FolderSource(folder, "train"), LABELS, 0)
    np.testing.assert_array_equal(before, after)


def test_grey_and_transparent_images_become_rgb(folder):
    path = folder / "images" / "train" / "im0.png"
    for mode in ("L", "RGBA", "P"):
        Image.fromarray(np.full((20, 30, 3), 204, np.uint8)).convert(mode).save(path)
        image, _ = read_example(FolderSource(folder, "train"), LABELS, 0)
        assert image.shape == (20, 30, 3) and (image == 204).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere, so nothing is read-only to it")
def test_a_read_only_directory_is_enough(folder):
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert read_example(FolderSource(folder, "train"), read_classes(str(folder)), 0)
    for path in paths:
        path.chmod(0o755)


def test_missing_directory(folder):
    with pytest.raises(DataError, match=r"directory .*/images/test does not exist.*images/train/NAME.jpg") as caught:
        FolderSource(folder, "test")
    assert str(folder) in str(caught.value)


def test_missing_and_wrong_data_dir(folder_config):
    folder_config.dir += "/nowhere"
    with pytest.raises(DataError, match="data.dir='.*/nowhere' is not a directory"):
        data_pipelines.build(folder_config)
    folder_config.dir = ""
    with pytest.raises(DataError, match="data.dir is empty"):
        data_pipelines.build(folder_config)


def test_missing_classes_json(folder):
    (folder / "classes.json").unlink()
    with pytest.raises(DataError, match=r"classes.json is missing"):
        read_classes(str(folder))


def test_image_without_annotation_and_the_reverse(folder):
    (folder / "annotations" / "train" / "im3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 image files have no annotation .*images/train/im3.png"):
        FolderSource(folder, "train")
    (folder / "images" / "val" / "im2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 annotation files have no image .*annotations/val/im2.png"):
        FolderSource(folder, "val")


def test_two_images_of_one_name(folder):
    Image.open(folder / "images" / "train" / "im0.png").save(folder / "images" / "train" / "im0.jpg")
    with pytest.raises(DataError, match="im0.jpg and im0.png have the same name"):
        FolderSource(folder, "train")


def test_empty_split(folder):
    for kind in ("images", "annotations"):
        (folder / kind / "empty").mkdir()
    with pytest.raises(DataError, match=r"images/empty holds no image \(.jpg"):
        FolderSource(folder, "empty")


def test_annotation_of_another_size(folder):
    Image.fromarray(np.zeros((20, 29), np.uint8)).save(folder / "annotations" / "train" / "im0.png")
    with pytest.raises(DataError, match=r"annotations/train/im0.png: the annotation is 29x20, its image 30x20"):
        read_example(FolderSource(folder, "train"), LABELS, 0)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_truncated_image(folder, ending):
    path = folder / "images" / "train" / "im0.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path.unlink()
    path = path.with_suffix("." + ending)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=rf"images/train/im0.{ending}: the image cannot be decoded"):
        read_example(FolderSource(folder, "train"), LABELS, 0)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + bytes(30)])
def test_a_file_that_is_no_picture(folder, content):
    (folder / "annotations" / "train" / "im0.png").write_bytes(content)
    with pytest.raises(DataError, match=r"im0.png: the annotation cannot be decoded"):
        read_example(FolderSource(folder, "train"), LABELS, 0)
    (folder / "images" / "train" / "im1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"im1.png: the image cannot be read"):
        FolderSource(folder, "train").size(1)


def test_an_id_outside_the_table_stops_at_the_start(folder, folder_config):
    label = np.zeros((20, 30), np.uint8)
    label[3, 3], label[5, 5] = 7, 3
    Image.fromarray(label).save(folder / "annotations" / "val" / "im2.png")
    for folder_config.on_error in ("stop", "skip"):
        with pytest.raises(
            LabelError, match=r"val/im2.png: the annotation holds ids 3, 7 that.*allowed: 0-2, 255 for 3"
        ):
            data_pipelines.build(folder_config)


def test_camvid_is_a_folder_data_set(shared_data):
    config = options.get_config().data
    config.update(name="folder", dir=str(shared_data("camvid")), batch_size=4, crop=(90, 120), scale=(240, 180))
    data = data_pipelines.build(config)
    assert (len(data.train), len(data.val), data.labels.num_classes) == (367, 101, 11)
    assert data.labels.names[0] == "Sky"
    batch = next(data_pipelines.train_batches(data, config, seed=0, start_step=0))
    assert set(np.unique(batch["label"])) <= {*range(11), 255}
    batch = next(data_pipelines.eval_batches(data.val, data.labels, 2))
    assert batch["image"].shape == (2, 360, 480, 3) and batch["valid"].all()


def test_a_bucket_is_read_as_a_disk_is(folder, folder_config):
    """TensorFlow's file system in memory stands for one: the same calls, under a URL."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        copy = f"ram://bucket/{path.relative_to(folder)}"
        tf.io.gfile.makedirs(os.path.dirname(copy))
        tf.io.gfile.copy(str(path), copy)
    here = data_pipelines.build(folder_config)
    folder_config.dir = "ram://bucket"
    there = data_pipelines.build(folder_config)
    assert there.train.image_name(0) == "ram://bucket/images/train/im0.png"
    for index in range(5):
        for ours, expected in zip(*(read_example(data.val, data.labels, index) for data in (there, here)), strict=True):
            np.testing.assert_array_equal(ours, expected)
        assert there.val.size(index) == here.val.size(index)
    folder_config.dir = "ram://nowhere"
    with pytest.raises(DataError, match="data.dir='ram://nowhere' is not a directory"):
        data_pipelines.build(folder_config)
