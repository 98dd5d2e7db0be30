"""Shards of a published data set, as `python -m data_pipelines.prepare` writes them, read by index.

    DATA_DIR/segmentation/FILES/1.0.0/
        segmentation-SPLIT.FORMAT-00000-of-00004    the examples
        metadata.json                               names, sizes and places of all examples
        dataset_info.json, features.json            TFDS's own

The order of the examples is that of the published files, so batches from the shards are those from the files.
"""

import bisect
import dataclasses
import itertools
import json
import os
import struct
from collections.abc import Iterable, Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from data_pipelines.labels import DataError, LabelSpec
from data_pipelines.official import Official
from data_pipelines.sources import Source, read_bytes

BUILDER, VERSION = "segmentation", "1.0.0"
FORMATS = ("array_record", "tfrecord")
_LENGTH = struct.Struct("<Q")  # a TFRecord is this, 4 bytes of checksum, the record, 4 bytes of checksum


def prepared_directory(data_dir: str, dataset: Official) -> str:
    """Where in `data_dir` the shards of a data set lie."""
    return os.path.join(data_dir, BUILDER, dataset.files, VERSION)


def is_prepared(data_dir: str, dataset: Official) -> bool:
    """Whether `data_dir` holds shards of the data set."""
    return tf.io.gfile.exists(os.path.join(prepared_directory(data_dir, dataset), "metadata.json"))


def located(dataset: Official, data_dir: str) -> Official:
    """The data set as `data_dir` holds it: the shards if there are any, else as published."""
    if not is_prepared(data_dir, dataset):
        return dataset

    def read(root: str, splits: Sequence[str]) -> tuple[list[RecordSource], LabelSpec]:
        directory = prepared_directory(root, dataset)
        metadata = _metadata(directory)
        sources = [RecordSource(directory, split, metadata["format"], metadata["splits"][split]) for split in splits]
        return sources, dataset.kinds[metadata["annotations"]]

    return dataclasses.replace(
        dataset,
        places=("",),
        inside=prepared_directory("", dataset),
        list_splits=lambda root: list(_metadata(prepared_directory(root, dataset))["splits"]),
        read=read,
    )


def _metadata(directory: str) -> dict:
    path = os.path.join(directory, "metadata.json")
    try:
        metadata = json.loads(read_bytes(path))
    except ValueError as error:  # DataError too
        raise DataError(f"{path} cannot be read: {error}. {_advice(directory)}") from error
    if not isinstance(metadata, dict) or not {"format", "annotations", "splits"} <= metadata.keys():
        raise DataError(f"{path} is not what data_pipelines.prepare writes. {_advice(directory)}")
    return metadata


class RecordSource(Source):
    """The examples of one split, from its shards: TFRecord by tf.io.gfile, ArrayRecord by its own package.

    index: {'shards': {file name: examples in it}, 'images', 'labels': names of the published files,
    'sizes': (h, w) of the images, 'offsets': of the examples in their shards, and the shards' ends; TFRecord only}.
    Raises DataError if a shard is missing or ArrayRecord cannot be read on this machine.
    """

    def __init__(self, directory: str, split: str, record_format: str, index: dict):
        super().__init__(f"{directory} ({split})")
        self._index = index
        self._shards = [os.path.join(directory, name) for name in index["shards"]]
        self._ends = list(itertools.accumulate(index["shards"].values()))
        there = set(tf.io.gfile.listdir(directory))
        missing = [os.path.join(directory, name) for name in index["shards"] if name not in there]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._shards)} shards are missing, for example {missing[0]}. "
                + _advice(directory)
            )
        self._advice = _advice(directory)
        self._records = None if record_format == "tfrecord" else _array_records(self._shards, index["shards"].values())

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> tuple[bytes, bytes, str]:
        try:
            record = self._records[index] if self._records else self._tf_record(index)
            features = tf.train.Example.FromString(record).features.feature
            image, label = (features[key].bytes_list.value[0] for key in ("image", "label"))
        except (OSError, RuntimeError, ValueError, IndexError, tf.errors.OpError, DecodeError) as error:
            raise DataError(f"{self.image_name(index)} cannot be read: {error}. {self._advice}") from error
        return image, label, self.image_name(index)

    def image_name(self, index: int) -> str:
        return self._named("images", index)

    def label_name(self, index: int) -> str:
        return self._named("labels", index)

    def size(self, index: int) -> tuple[int, int]:
        height, width = self._index["sizes"][index]
        return height, width

    def _named(self, kind: str, index: int) -> str:
        """SHARD:FILE, of a published file."""
        return f"{self._shards[bisect.bisect_right(self._ends, index)]}:{self._index[kind][index]}"

    def _tf_record(self, index: int) -> bytes:
        shard = bisect.bisect_right(self._ends, index)
        path = self._shards[shard]
        places = self._index["offsets"][os.path.basename(path)]
        number = index - (self._ends[shard - 1] if shard else 0)
        with tf.io.gfile.GFile(path, "rb") as file:
            file.seek(places[number])
            data = file.read(places[number + 1] - places[number])
        (length,) = _LENGTH.unpack_from(data)
        if len(data) != length + 16:
            raise ValueError(f"expected {length} bytes at {places[number]}, found {len(data) - 16}")
        return data[12:-4]


def _array_records(shards: Sequence[str], counts: Iterable[int]):
    paths = [f"{path}[0:{count}]" for path, count in zip(shards, counts, strict=True)]
    return array_record_reader(shards[0])(paths)


def array_record_reader(path: str) -> type:
    """The class that reads ArrayRecord files such as `path`; DataError where there is none for the platform."""
    try:
        from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
        raise DataError(
            f"{path}: ArrayRecord files need the package array_record, which cannot be loaded here ({error}). Install "
            "it, or, where there is none for the platform, prepare the data set with --format=tfrecord."
        ) from error
    return ArrayRecordDataSource


def tf_record_offsets(path: str) -> list[int]:
    """Where each record of a TFRecord file starts, and where the last one ends."""
    offsets = [0]
    with tf.io.gfile.GFile(path, "rb") as file:
        while head := file.read(_LENGTH.size):
            offsets.append(offsets[-1] + _LENGTH.unpack(head)[0] + 16)
            file.seek(offsets[-1])
    return offsets


def _advice(directory: str) -> str:
    return f"Copy the directory again, or remove {directory} and run data_pipelines.prepare again."
