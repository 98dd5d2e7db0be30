"""Shards: written from the official files, they give the very batches of the files; what goes wrong leaves nothing."""

import functools
import itertools
import json
import shutil
import signal
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data_pipelines
from data_pipelines import OFFICIAL, builder, prepare, records
from data_pipelines.labels import DataError, LabelError
from tests.data_pipelines import trees
from tests.data_pipelines.test_official import WRITE, make_config
from tests.data_pipelines.test_pipeline import joined, same

tfds.disable_progress_bar()
take = itertools.islice
FORMATS = pytest.mark.parametrize("record_format", records.FORMATS)


def entries(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """{format: (directory of the files, directory of their shards)}: seven frames a split, in three shards."""
    made = {}
    for record_format in records.FORMATS:
        place = tmp_path_factory.mktemp(record_format)
        trees.write_cityscapes(place / "files", cities=(("a", 4), ("b", 3)))
        trees.write_image(place / "files/cityscapes/leftImg8bit/val/a/a_000001_000019_leftImg8bit.png", 1, (24, 18))
        trees.write_mask(
            place / "files/cityscapes/gtFine/val/a/a_000001_000019_gtFine_labelIds.png", [7], size=(24, 18)
        )
        with pytest.MonkeyPatch.context() as patch:
            cut = functools.partial(tfds.download.DownloadConfig, num_shards=3)
            patch.setattr(tfds.download, "DownloadConfig", cut)
            prepare.prepare("cityscapes", place / "files", place / "shards", record_format)
        made[record_format] = place / "files", place / "shards"
    return made


def build(directory, name="cityscapes", **changes):
    config = make_config(name, directory, **changes)
    return data_pipelines.build(config), config


@pytest.mark.parametrize("name", OFFICIAL)
@FORMATS
def test_every_example_is_there_byte_for_byte_and_in_order(name, record_format, tmp_path):
    WRITE[name](tmp_path / "files")
    directory = prepare.prepare(name, tmp_path / "files", tmp_path / "shards", record_format)
    dataset = OFFICIAL[name]
    splits = list(json.loads((tmp_path / directory / "metadata.json").read_text())["splits"])
    assert set(splits) == set(dataset.sizes) - {"test"}
    files, labels = dataset.open(tmp_path / "files", splits)
    shards, shard_labels = records.located(dataset, tmp_path / "shards").open(tmp_path / "shards", splits)
    assert shard_labels is labels
    for ours, theirs in zip(shards, files, strict=True):
        assert len(ours) == len(theirs)
        for k in range(len(ours)):
            assert ours[k][:2] == theirs[k][:2] and ours.size(k) == theirs.size(k)
            for name in ("image_name", "label_name"):
                shard, file = getattr(ours, name)(k).split(":")
                assert getattr(theirs, name)(k).endswith(f"/{file}") and shard.startswith(directory)


@pytest.mark.parametrize("record_format, processes", [("array_record", 2), ("tfrecord", 1)])
def test_the_batches_are_those_of_the_files(cityscapes, record_format, processes):
    """Over several epochs, resumed in the middle of the first, on one process and on two."""
    (files, config), (shards, _) = (build(directory) for directory in cityscapes[record_format])
    assert isinstance(shards.train, records.RecordSource) and len(shards.train._shards) == 3
    straight = list(take(data_pipelines.train_batches(files, config, seed=3, start_step=0), 12))
    assert len({batch["image"].tobytes() for batch in straight}) == 12
    options = {"seed": 3, "start_step": 2, "process_count": processes}
    parts = [data_pipelines.train_batches(shards, config, **options, process_index=k) for k in range(processes)]
    for theirs, *ours in zip(straight[2:], *parts, strict=False):
        same(joined(ours), theirs)
    if processes > 1:
        resumed = data_pipelines.train_batches(shards, config, seed=3, start_step=2)
        for theirs, ours in zip(straight[2:], resumed, strict=False):
            same(ours, theirs)


def test_evaluation_and_calibration_are_those_of_the_files_and_write_nothing(cityscapes):
    written = {path: path.stat().st_mtime_ns for path in cityscapes["array_record"][1].rglob("*")}
    (files, config), (shards, _) = (build(directory) for directory in cityscapes["array_record"])

    def evaluation(data, **process):
        return list(data_pipelines.eval_batches(data.val, data.labels, 2, **process))

    def calibration(data, **process):
        return list(data_pipelines.calibration_batches(data, config, seed=1, **process))

    for batches in (evaluation, calibration):
        halves = [batches(shards, process_index=process, process_count=2) for process in range(2)]
        theirs = batches(files)
        for one, *parts in zip(theirs, *halves, strict=True):
            same(joined(parts), one)
        assert sum(batch["valid"].sum() for batch in theirs) == 7
    assert {path: path.stat().st_mtime_ns for path in cityscapes["array_record"][1].rglob("*")} == written


@pytest.mark.parametrize("name", ["ade20k", "voc2012", "cityscapes"])
def test_real_files(name, shared_data, tmp_path):
    directory = shared_data(f"{name}_mini")
    prepare.prepare(name, directory, tmp_path)
    (files, _), (shards, _) = (build(place, name) for place in (directory, tmp_path))
    for ours, theirs in ((shards.train, files.train), (shards.val, files.val)):
        assert [ours[k][:2] for k in range(len(ours))] == [theirs[k][:2] for k in range(len(theirs))]
        assert [ours.size(k) for k in range(len(ours))] == [theirs.size(k) for k in range(len(theirs))]
    if name == "cityscapes":
        shutil.rmtree(tmp_path / "segmentation")  # 30 MB


def test_context_with_and_without_background_are_the_same_shards(tmp_path):
    trees.write_pascal_context(tmp_path)
    prepare.prepare("pascal_context_60", tmp_path, tmp_path / "shards")
    counts = [
        build(tmp_path / "shards", name)[0].labels.num_classes for name in ("pascal_context", "pascal_context_60")
    ]
    assert counts == [59, 60]
    with pytest.raises(DataError, match=r"shards/segmentation/pascal_context/1.0.0 is there already. Remove it"):
        prepare.prepare("pascal_context", tmp_path, tmp_path / "shards")


def test_the_kind_of_the_annotations_is_kept(tmp_path):
    trees.write_cityscapes(tmp_path, ("labelIds", "labelTrainIds"))
    prepare.prepare("cityscapes", tmp_path, tmp_path / "shards")
    (files, _), (shards, _) = build(tmp_path), build(tmp_path / "shards")
    assert shards.labels is files.labels is OFFICIAL["cityscapes"].kinds["labelTrainIds"]
    assert shards.train.label_name(0).endswith("_gtFine_labelTrainIds.png")


def test_tfds_reads_them_too(cityscapes):
    arrays, tf_records = (
        tfds.builder_from_directory(str(cityscapes[name][1] / "segmentation/cityscapes/1.0.0"))
        for name in records.FORMATS
    )
    example = arrays.as_data_source(split="val")[1]
    assert example["image"].startswith(b"\x89PNG")
    assert example["name"] == b"leftImg8bit/val/a/a_000001_000019_leftImg8bit.png"
    names = [example["name"] for example in tf_records.as_dataset(split="val").as_numpy_iterator()]
    assert names == sorted(names) and len(names) == 7


def test_large_splits_keep_their_order(tmp_path, monkeypatch):
    """More bytes than TFDS holds in memory go through files of its own."""
    monkeypatch.setattr(tfds.core.shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    trees.write_ade20k(tmp_path, train=30)
    buckets = set()
    add = tfds.core.shuffle.Shuffler._add_to_bucket

    def spy(self, hkey, data):
        buckets.add(tfds.core.shuffle.get_bucket_number(hkey, tfds.core.shuffle.BUCKETS_NUMBER))
        add(self, hkey, data)

    monkeypatch.setattr(tfds.core.shuffle.Shuffler, "_add_to_bucket", spy)
    prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    assert len(buckets) == 30  # each is sorted in memory
    (files, _), (shards, _) = (build(place, "ade20k") for place in (tmp_path, tmp_path / "shards"))
    assert [shards.train[k][:2] for k in range(30)] == [files.train[k][:2] for k in range(30)]


# ---- what goes wrong ----


def break_image(root):
    path = root / "images" / "validation" / "ADE_val_00000002.jpg"
    path.write_bytes(path.read_bytes()[:100])


def break_ids(root):
    trees.write_mask(root / "annotations" / "training" / "ADE_train_00000003.png", [0, 200])


def take_away(root):
    (root / "annotations" / "training" / "ADE_train_00000001.png").unlink()


@pytest.mark.parametrize(
    "harm, error, message",
    [
        (break_image, DataError, r"validation/ADE_val_00000002.jpg: the image cannot be decoded \(100 bytes\)"),
        (break_ids, LabelError, r"training/ADE_train_00000003.png: the annotation holds ids 200 .* 0-150"),
        (take_away, DataError, r"1 of 3 image files have no annotation .*ADE_train_00000001.jpg"),
        (lambda root: (root / "images").rename(root / "pictures"), DataError, r"does not hold ADE20K.*https?://"),
        (
            lambda root: shutil.rmtree(root / "images" / "validation"),
            DataError,
            r"no split 'validation'; there are: tr",
        ),
    ],
)
def test_wrong_files_are_named_and_nothing_is_left(harm, error, message, tmp_path):
    harm(trees.write_ade20k(tmp_path / "files"))
    with pytest.raises(error, match=message):
        prepare.prepare("ade20k", tmp_path / "files", tmp_path / "shards")
    assert entries(tmp_path / "files") and not (tmp_path / "shards").exists()


def test_another_data_set_in_the_same_directory_stays(tmp_path):
    trees.write_pascal_context(tmp_path)
    prepare.prepare("pascal_context", tmp_path, tmp_path / "shards")
    before = entries(tmp_path / "shards")
    break_ids(trees.write_ade20k(tmp_path))
    with pytest.raises(LabelError):
        prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    assert entries(tmp_path / "shards") == before
    shutil.rmtree(tmp_path / "ADEChallengeData2016")
    trees.write_ade20k(tmp_path)
    prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    assert len(build(tmp_path / "shards", "ade20k")[0].train) == 3


def test_a_split_one_can_do_without_is_left_out_and_it_is_said(tmp_path, capsys):
    root = trees.write_voc2012(tmp_path)
    (root / "SegmentationClassAug" / "2007_d.png").unlink()
    prepare.prepare("voc2012", tmp_path, tmp_path / "shards")
    assert "trainaug is left out: 1 of 3 files listed in" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"has no split 'trainaug'; there are: train, val .*SBD"):
        build(tmp_path / "shards", "voc2012")
    assert len(build(tmp_path / "shards", "voc2012", train_split="train")[0].train) == 2


def test_no_room_on_the_disk(tmp_path, monkeypatch):
    trees.write_ade20k(tmp_path)
    usage = types.SimpleNamespace(free=10)
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"the shards take 0.0 GB, on its disk 0.0 GB are free. Make room"):
        prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_a_disk_that_fills_up_on_the_way(tmp_path, monkeypatch):
    trees.write_ade20k(tmp_path)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tfds.core.writer.Writer, "finalize", fail)
    with pytest.raises(DataError, match=r"shards/segmentation/ade20k/1.0.0 cannot be written: .*No space left"):
        prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_a_run_that_is_ended_leaves_nothing_and_one_that_was_killed_is_named(tmp_path, monkeypatch, capsys):
    trees.write_ade20k(tmp_path)
    left = tmp_path / "shards/segmentation/ade20k/incomplete.ABCDEF_1.0.0"
    left.mkdir(parents=True)
    before = entries(tmp_path / "shards")
    monkeypatch.setattr(tfds.core.writer.Writer, "finalize", lambda self: signal.raise_signal(signal.SIGTERM))
    restore = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            prepare.main(["--dataset=ade20k", f"--source={tmp_path}", f"--data_dir={tmp_path / 'shards'}"])
    finally:
        signal.signal(signal.SIGTERM, restore)
    assert ended.value.code == 143 and f"{left} was left by a run that was killed" in capsys.readouterr().out
    assert set(entries(tmp_path / "shards")) - set(before) <= {
        f"segmentation/.config{file}" for file in ("", "/metadata.json")
    }


def test_a_place_that_cannot_be_written_to(tmp_path):
    trees.write_ade20k(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/shards/segmentation/ade20k/1.0.0 cannot be written"):
        prepare.prepare("ade20k", tmp_path, tmp_path / "file" / "shards")


def test_where_there_is_no_array_record(tmp_path, monkeypatch):
    trees.write_ade20k(tmp_path)
    prepare.prepare("ade20k", tmp_path, tmp_path / "shards")
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_data_source", None)
    for attempt in (
        lambda: prepare.prepare("ade20k", tmp_path, tmp_path / "others"),
        lambda: build(tmp_path / "shards", "ade20k"),
    ):
        with pytest.raises(
            DataError, match=r"need the package array_record, which cannot be loaded.*--format=tfrecord"
        ):
            attempt()
    assert not (tmp_path / "others").exists()


@FORMATS
def test_shards_that_are_missing_or_corrupt_are_named(cityscapes, record_format, tmp_path):
    shutil.copytree(cityscapes[record_format][1], tmp_path / "shards")
    directory = tmp_path / "shards/segmentation/cityscapes/1.0.0"
    path = directory / f"segmentation-val.{record_format}-00001-of-00003"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    data, _ = build(tmp_path / "shards", on_error="skip")
    found = []
    for k in range(len(data.val)):
        try:
            data_pipelines.read_example(data.val, data.labels, k)
        except DataError as error:
            found.append(str(error))
    assert found and all(
        f"{path}:leftImg8bit/val/" in message and "Copy the directory again" in message for message in found
    )
    path.unlink()
    with pytest.raises(DataError, match=rf"1 of 3 shards are missing, for example {path}. Copy the directory again"):
        build(tmp_path / "shards")
    (directory / "metadata.json").write_text("{}")
    with pytest.raises(DataError, match=r"metadata.json is not what data_pipelines.prepare writes"):
        build(tmp_path / "shards")


def test_the_command(tmp_path, capsys):
    trees.write_ade20k(tmp_path)
    arguments = ["--dataset=ade20k", f"--source={tmp_path}", f"--data_dir={tmp_path / 'shards'}", "--format=tfrecord"]
    prepare.main(arguments)
    assert f"--config.data.name=ade20k --config.data.dir={tmp_path / 'shards'} reads it" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"data_pipelines.prepare: .*ade20k/1.0.0 is there already"):
        prepare.main(arguments)


def test_a_picture_is_decoded_once_to_see_that_it_is_whole_and_only_a_few_wait(tmp_path):
    trees.write_ade20k(tmp_path, train=60)
    (source,), labels = OFFICIAL["ade20k"].open(tmp_path, ["training"])
    asked = []

    class Counting:
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            asked.append(index)
            return source[index]

        label_name = source.label_name

    examples = builder._examples(Counting(), labels)
    sizes = [next(examples)[2] for _ in range(2)]
    assert len(asked) <= 2 + 2 * builder.THREADS + 1
    sizes += [size for _, _, size in examples]
    assert sorted(asked) == list(range(60)) and np.all(np.array(sizes) == (12, 16))


def test_images_alone_come_from_shards_too(cityscapes):
    """As for the predictions of a split; their names end as those of the files do."""
    files, shards = (
        data_pipelines.open_images(make_config("cityscapes", directory))[0] for directory in cityscapes["array_record"]
    )
    names = [[source.image_name(k).rsplit("/", 1)[1] for k in range(len(source))] for source in (files, shards)]
    assert names[0] == names[1] and len(names[0]) == 7
    assert files[3][0] == shards[3][0]
