"""What the readers of published data sets have in common."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from data_pipelines.labels import DataError, LabelSpec
from data_pipelines.sources import FileSource, ImageSource


@dataclasses.dataclass(frozen=True)
class Official:
    """A published data set, read in place from the layout in which it is published.

    title: its name in messages.
    sizes: {split: number of images that it has officially}.
    train_split, val_split: the usual splits.
    places: where its root may lie in the directory that the user names; `inside`: a directory that the root holds.
    origin: where to get it and where to put it; additions: the same for splits that one can do without.
    files: what its shards are called, once prepared; data sets that differ in their labels alone share them.
    kinds: {kind of annotations: what their ids mean} of the kinds that it may come with.
    list_splits: root -> names of the splits that are there.
    read: (root, splits) -> a source for each split, and the LabelSpec of them all.
    images: (root, split) -> paths of the split's images, which need no annotations, and what is predicted for them.
    """

    title: str
    sizes: Mapping[str, int]
    train_split: str
    val_split: str
    places: Sequence[str]
    inside: str
    origin: str
    files: str
    kinds: Mapping[str, LabelSpec]
    list_splits: Callable[[str], list[str]]
    read: Callable[[str, Sequence[str]], tuple[Sequence[FileSource], LabelSpec]]
    images: Callable[[str, str], tuple[Sequence[str], LabelSpec]]
    additions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def root(self, directory: str) -> str:
        """Where the data set lies in `directory`; raises DataError, which says where to get it, if it does not."""
        for place in self.places:
            root = os.path.join(directory, place) if place else directory
            if tf.io.gfile.isdir(os.path.join(root, self.inside)):
                return root
        raise DataError(
            f"{directory!r} does not hold {self.title}: no {self.inside}/ in it"
            + "".join(f", nor in {place}/" for place in self.places if place)
            + f", nor shards of data_pipelines.prepare. {self.origin}"
        )

    def open(self, directory: str, splits: Sequence[str]) -> tuple[Sequence[FileSource], LabelSpec]:
        """A source for each of the `splits`, and what the labels of all mean.

        Raises DataError naming split or file if the data set, a split or a file of it is not there.
        """
        return self.read(self._with_splits(directory, splits), splits)

    def open_images(self, directory: str, split: str) -> tuple[ImageSource, LabelSpec]:
        """The images of a split alone, which may have no annotations, and what is predicted for them.

        Raises DataError naming split or file if the data set, the split or an image of it is not there.
        """
        root = self._with_splits(directory, [split])
        paths, labels = self.images(root, split)
        return ImageSource(f"{root} ({split})", paths), labels

    def _with_splits(self, directory: str, splits: Sequence[str]) -> str:
        """The root, in which there are the `splits`."""
        root = self.root(os.fspath(directory))
        there = self.list_splits(root)
        for split in splits:
            if split not in there:
                raise DataError(
                    f"{root} has no split {split!r}; there are: {', '.join(there) or 'none'} "
                    "(data.train_split, data.val_split). " + self.additions.get(split, self.origin)
                )
        return root


def list_directories(directory: str) -> list[str]:
    """Names of the directories in `directory`; none if it does not exist."""
    if not tf.io.gfile.isdir(directory):
        return []
    names = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(directory))  # buckets end them with a slash
    return [name for name in names if tf.io.gfile.isdir(os.path.join(directory, name))]


def list_lists(directory: str) -> list[str]:
    """Names, without .txt, of the text files in `directory`; none if it does not exist."""
    if not tf.io.gfile.isdir(directory):
        return []
    return sorted(name[:-4] for name in tf.io.gfile.listdir(directory) if name.endswith(".txt"))
