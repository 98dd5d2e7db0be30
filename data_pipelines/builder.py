"""The TFDS builder of the published data sets; `python -m data_pipelines.prepare` runs it.

It stores the bytes of the files as they are, so nothing is decoded and encoded anew, a palette PNG keeps its indices,
and training from the shards is training from the files. TFDS reads the result too: tfds.builder_from_directory.
"""

import collections
import concurrent.futures
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines import OFFICIAL
from data_pipelines.labels import DataError, LabelSpec
from data_pipelines.official import Official
from data_pipelines.pipeline import THREADS
from data_pipelines.records import BUILDER, VERSION, tf_record_offsets
from data_pipelines.sources import FileSource, decode_example


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    dataset: Official | None = None


class Segmentation(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One config for the files of each published data set; the directory of the files is TFDS's `manual_dir`."""

    name = BUILDER
    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [Config(name=d.files, dataset=d) for d in {d.files: d for d in OFFICIAL.values()}.values()]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The directory of the data set as published."

    @property
    def _dataset(self) -> Official:
        config: Any = self.builder_config
        return config.dataset

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self._dataset.title}: the files as published. label: encoded ids before any "
            "table. Decode palette PNGs by their indices (PIL), not by their colours (tf.image).",
            features=tfds.features.FeaturesDict(
                {key: tfds.features.Tensor(shape=(), dtype=tf.string) for key in ("image", "label", "name")}
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        directory = os.fspath(dl_manager.manual_dir)
        dataset = self._dataset
        root = dataset.root(directory)
        splits, sources, labels = _open(dataset, directory)
        _require_space(self.data_dir, [path for source in sources for pair in source.pairs for path in pair])
        (self._annotations,) = (kind for kind, spec in dataset.kinds.items() if spec is labels)
        self._index = {}
        return {
            split: self._generate_examples(root, split, source, labels)
            for split, source in zip(splits, sources, strict=True)
        }

    def _generate_examples(self, root: str, split: str, source: FileSource, labels: LabelSpec) -> Iterator:
        names = [[path.removeprefix(root).lstrip("/") for path in paths] for paths in zip(*source.pairs, strict=True)]
        self._index[split] = index = {"images": names[0], "labels": names[1], "sizes": []}
        for number, (image, label, size) in enumerate(_examples(source, labels)):
            index["sizes"].append(size)
            # TFDS sorts a thousandth of the range of 128-bit keys at a time: spread over it, they need little memory.
            yield (number << 128) // len(source), {"image": image, "label": label, "name": names[0][number]}

    def _download_and_prepare(self, *args, **kwargs) -> None:
        """Writes the shards into TFDS's temporary directory, and what finds an example in them."""
        super()._download_and_prepare(*args, **kwargs)
        for split, index in self._index.items():
            info = self.info.splits[split]
            index["shards"] = dict(zip(info.filenames, info.shard_lengths, strict=True))
            if self.info.file_format is tfds.core.FileFormat.TFRECORD:
                index["offsets"] = {
                    name: tf_record_offsets(os.path.join(self.data_dir, name)) for name in index["shards"]
                }
        metadata: Any = self.info.metadata
        file_format: Any = self.info.file_format
        metadata.update(format=file_format.value, annotations=self._annotations, splits=self._index)


def _open(dataset: Official, directory: str) -> tuple[list[str], Sequence[FileSource], LabelSpec]:
    """The official splits that are there, their sources and labels; those one can do without are left out if unusable.

    Raises DataError, which says where to get it, if another split is not there or not whole.
    """
    splits = [split for split in dataset.sizes if split not in dataset.additions]
    for split in dataset.sizes:
        if split in dataset.additions:
            try:
                dataset.open(directory, [split])
                splits.append(split)
            except DataError as error:
                print(f"{split} is left out: {error}")
    return splits, *dataset.open(directory, splits)


def _require_space(directory: str, paths: Sequence[str]) -> None:
    """Raises DataError if the disk of `directory`, where it is one, has no room for copies of the files."""
    if "://" in directory:
        return
    needed = sum(tf.io.gfile.stat(path).length for path in paths)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise DataError(
            f"{directory}: the shards take {needed / 1e9:.1f} GB, on its disk {free / 1e9:.1f} GB are free. Make room "
            "or take another data_dir."
        )


def _examples(source: FileSource, labels: LabelSpec) -> Iterator[tuple[bytes, bytes, tuple[int, int]]]:
    """(image bytes, annotation bytes, (h, w)) in the source's order, each decoded once to see that it is whole.

    Raises DataError naming the file that is not, LabelError the annotation of ids that must not occur.
    """

    def load(index):
        image, label, name = source[index]
        _, ids = decode_example(image, label, name, source.label_name(index), labels)
        return image, label, ids.shape

    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        try:
            for index in range(len(source)):
                waiting.append(pool.submit(load, index))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
