"""Which files belong together; messages say what was looked for and what comes near."""

import unicodedata

import pytest
from PIL import Image

import data_pipelines
from data_pipelines.labels import DataError
from data_pipelines.sources import FolderSource


def rename(folder, image=None, mask=None, splits=("train", "val")):
    """Renames files by their stems."""
    for split in splits:
        for kind, name in (("images", image), ("annotations", mask)):
            for path in list((folder / kind / split).glob("*.png")) if name else ():
                target = path.parent / name(path.stem)
                target.parent.mkdir(exist_ok=True)
                path.rename(target)


def stems(source):
    return [tuple(path.rsplit("/", 1)[1] for path in pair) for pair in source.pairs]


def test_composed_and_decomposed_names_are_the_same(folder):
    composed, decomposed = (unicodedata.normalize(form, "Größe é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    rename(folder, lambda stem: f"{decomposed}{stem}.png", lambda stem: f"{composed}{stem}.png")
    source = FolderSource(folder, "train")
    assert len(source) == 5 and source.size(1) == (24, 18)
    assert stems(source)[0] == (f"{decomposed}im0.png", f"{composed}im0.png")


def test_two_files_of_one_name_in_both_forms(folder):
    picture = Image.open(folder / "images" / "train" / "im0.png")
    for form in ("NFC", "NFD"):
        picture.save(folder / "images" / "train" / f"{unicodedata.normalize(form, 'é')}.png")
    with pytest.raises(DataError, match="have the same name; keep one"):
        FolderSource(folder, "train")


def test_masks_with_a_suffix(folder):
    rename(folder, mask=lambda stem: f"{stem}_mask.png")
    assert stems(FolderSource(folder, "train"))[0] == ("im0.png", "im0_mask.png")
    Image.open(folder / "annotations" / "val" / "im0_mask.png").save(folder / "annotations" / "val" / "im0.png")
    with pytest.raises(DataError, match="1 of 6 annotation files have no image of the same name, .*im0_mask.png"):
        FolderSource(folder, "val")


def test_upper_case_endings_and_dots(folder):
    rename(folder, lambda stem: f"cam.1.{stem}.PNG", lambda stem: f"cam.1.{stem}.Png")
    assert stems(FolderSource(folder, "train"))[0] == ("cam.1.im0.PNG", "cam.1.im0.Png")


def test_sub_folders_are_part_of_the_name(folder, folder_config):
    rename(folder, lambda stem: f"city{stem[-1]}/a.png", lambda stem: f"city{stem[-1]}/a.png")
    data = data_pipelines.build(folder_config)
    assert [path.split("/train/")[1] for path, _ in data.train.pairs] == [f"city{k}/a.png" for k in range(5)]
    (folder / "annotations" / "train" / "city2" / "a.png").rename(folder / "annotations" / "train" / "a.png")
    with pytest.raises(DataError, match=r"for example .*city2/a.png. Looked for city2/a.png and city2/a_mask.png"):
        FolderSource(folder, "train")


def test_links_are_followed_and_circles_are_not(folder, tmp_path):
    for kind in ("images", "annotations"):
        (folder / kind / "train").rename(tmp_path / kind)
        (folder / kind / "train").symlink_to(tmp_path / kind)
        (tmp_path / kind / "round").symlink_to(tmp_path / kind)
        (tmp_path / kind / "more").symlink_to(folder / kind / "val")
    assert len(FolderSource(folder, "train")) == 10


@pytest.mark.parametrize(
    "ending, mask, said",
    [
        ("jpg", "{}.jpg", "near it: im0.jpg. JPEG changes ids near borders: export the masks as PNG"),
        ("tif", "{}.tif", r"near it: im0.tif. Save them as PNG"),
        ("png", "{}_label.png", "near it: im0_label.png"),
        ("png", "mask_{}.png", "near it: mask_im0.png"),
        ("png", "{}_MASK.png", "near it: im0_MASK.png"),
    ],
)
def test_near_misses_of_masks(folder, ending, mask, said):
    for path in list((folder / "annotations" / "train").glob("*.png")):
        Image.open(path).save(path.with_name(mask.format(path.stem)))
        path.unlink()
    with pytest.raises(DataError, match=r"5 of 5 image files .*Looked for im0.png and im0_mask.png below .*" + said):
        FolderSource(folder, "train")


def test_near_misses_of_images(folder):
    path = folder / "images" / "train" / "im0.png"
    Image.open(path).save(path.with_suffix(".bmp"))
    path.unlink()
    with pytest.raises(
        DataError, match=r"Looked for im0 with .jpg, .jpeg, .png below .*near it: im0.bmp. Save them as"
    ):
        FolderSource(folder, "train")
    for path in (folder / "images" / "train").iterdir():
        path.rename(path.with_suffix(".tif"))
    with pytest.raises(
        DataError, match=r"holds no image \(.jpg, .jpeg, .png; .*Files found: 5 of .tif. Save them as PNG"
    ):
        FolderSource(folder, "train")


def test_a_broken_link_is_named_when_it_is_read(folder, folder_config):
    path = folder / "annotations" / "train" / "im1.png"
    path.unlink()
    path.symlink_to(folder / "nowhere")
    with pytest.raises(DataError, match="im1.png cannot be read: .*No such file"):
        data_pipelines.build(folder_config)
