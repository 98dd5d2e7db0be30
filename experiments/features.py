"""The feature maps of an encoder that is not trained, computed once and kept in files that are mapped into memory.

Training images come from the usual pipeline, a few epochs of it: a pool of augmented images, from which every run
draws in its own order. Each split to be evaluated is there once, as evaluation shows it to the network.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import data_pipelines
from se_jax import parallel, run
from se_jax.evaluation.protocol import protocol
from se_jax.importers import start_from
from se_jax.models import build
from se_jax.models.interpolation import taps
from se_jax.training import start
from se_jax.training.step import stream

INDEX = "index.json"  # written last: what a folder without it holds is not whole


@dataclasses.dataclass(frozen=True)
class Features:
    """Of one split: maps, finest first, each float32 [n, h, w, c]; label uint8 [n, H, W]; names of the classes."""

    maps: tuple[np.ndarray, ...]
    label: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, indices) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """(maps, label) of the images at those places."""
        return tuple(x[indices] for x in self.maps), self.label[indices]

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[np.ndarray, ...]]:
        """The maps in order, `size` images at a time, of the first `limit` images; the last batch may be smaller."""
        end = min(len(self), limit or len(self))
        for first in range(0, end, size):
            yield self.take(slice(first, min(first + size, end)))[0]


def load(config, split: str, folder, *, epochs: int = 4, images: int | None = None) -> Features:
    """The features of 'train' (a pool of `epochs` epochs) or of another split, computed if they are not in `folder`.

    Args:
      config: a run's; its encoder, the weights in init_from and the options of data and evaluation decide.
      images: only that many.

    Raises:
      ValueError: images of the split have several sizes, so that they do not fit into one array.
    """
    depends = {
        "encoder": config.model.encoder.to_dict(),
        "init_from": config.init_from,
        "data": {key: value for key, value in config.data.to_dict().items() if key not in ("dir", "cache")},
        "scale": None if split == "train" else config.eval.scale,
        "split": split,
        "count": epochs if split == "train" else 0,
        "images": images,
        "seed": config.seed,
    }
    key = hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:16]
    place = pathlib.Path(folder) / f"{split}_{key}"
    if not (place / INDEX).exists():
        place.mkdir(parents=True, exist_ok=True)
        classes = _write(config, split, place, epochs, images)
        run.write_json(place / INDEX, {"classes": classes, "of": json.loads(json.dumps(depends, default=str))})
    classes = run.read_json(place / INDEX)["classes"]
    maps = [np.load(place / f"map{i}.npy", mmap_mode="r") for i in range(len(list(place.glob("map*.npy"))))]
    return Features(tuple(maps), np.load(place / "label.npy", mmap_mode="r"), tuple(classes))


def _write(config, split: str, place: pathlib.Path, epochs: int, images: int | None) -> list[str]:
    """Computes and writes the features of a split; returns the names of the classes."""
    changed = config.copy_and_resolve_references()
    if split != "train":
        changed.data.val_split = split
    data = data_pipelines.build(changed.data)
    source, total = (_training, epochs * len(data.train)) if split == "train" else (evaluated, len(data.val))
    total, arrays, done, encode = min(total, images or total), [], 0, encoder(config, place)
    for image, size, label in source(changed, data):
        label = label[: total - done]
        values = [*jax.device_get(encode(image, size)), label]
        if not arrays:
            names = [*(f"map{i}.npy" for i in range(len(values) - 1)), "label.npy"]
            arrays = [
                np.lib.format.open_memmap(place / name, "w+", value.dtype, (total, *value.shape[1:]))
                for name, value in zip(names, values, strict=True)
            ]
        for array, value in zip(arrays, values, strict=True):
            if array.shape[1:] != value.shape[1:]:
                raise ValueError(
                    f"images of the split {split} have several sizes (labels {array.shape[1:]} and {value.shape[1:]}), "
                    "so that their features do not fit into one array; set data.crop, or eval.scale"
                )
            array[done : done + len(label)] = value[: len(label)]
        done += len(label)
        if done == total:
            break
    for array in arrays:
        array.flush()
    return list(data.labels.names)


def encoder(config, place: pathlib.Path):
    """The encoder of a config with the weights that a run starts from: (uint8 [b, h, w, 3], sizes) -> maps, compiled.

    Weights from chance have no running statistics yet, so their BatchNorms take the batch's, as in training.
    place: folder of the features.
    """
    model = build(start.with_normalization(config, place).model).with_equalizer(mode="none")
    init = parallel.jit_once(model.init)
    variables: Any = init(stream(config.seed, "params"), jnp.zeros((1, *config.data.crop, 3)))
    if config.init_from:
        variables = start_from(config.init_from, model, variables, config.init_skip)
    own = {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}

    @parallel.jit
    def encode(image, size):
        images = model.normalize(image, size)
        if not config.init_from:
            return model.encoder.apply(own, images, train=True, mutable=["batch_stats"])[0]
        return model.encoder.apply(own, images)

    return encode


def _training(config, data):
    for batch in data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=0):
        yield batch["image"], batch["size"], batch["label"]


def evaluated(config, data):
    """Batches of (images as evaluation shows them to the network, their sizes, labels) of the validation split."""
    how = protocol(config.eval)
    if how.tta or how.mode != "whole":
        raise ValueError("features are those of whole images in one view; set eval.mode='whole' and eval.tta=False")
    for batch in data_pipelines.eval_batches(data.val, data.labels, config.eval.batch_size):
        image = fitted(batch["image"], how.views(batch["image"].shape[1:3])[0].size)
        yield image, np.tile(np.int32(image.shape[1:3]), (len(image), 1)), batch["label"][batch["valid"]]


def fitted(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [b, h, w, 3] resized and rounded to `size`, as evaluation shows them to the network."""
    x: Any = images
    for axis, length in zip((1, 2), size, strict=True):
        lower, upper, share = taps(images.shape[axis], length)
        share = share.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, lower, axis) * (1 - share) + np.take(x, upper, axis) * share
    return np.round(x).astype(np.uint8)
