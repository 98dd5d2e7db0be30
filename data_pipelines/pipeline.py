"""From a source to this process's batches of numpy arrays, by tf.data, with nothing random but (seed, step)."""

import collections
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines import mixing, transforms
from data_pipelines.cache import Cache
from data_pipelines.effects import Effects
from data_pipelines.labels import IGNORE, DataError, LabelError, LabelSpec
from data_pipelines.order import Order
from data_pipelines.sources import Source, read_example

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
THREADS = min(CORES, 16)
Batch = dict[str, np.ndarray]

# Streams of random numbers: calibration must not see the very crops that training starts with.
_random: Any = getattr(tf.random, "experimental")  # noqa: B009, which type checkers do not know
_TRAINING, _CALIBRATION = 0, 1
_MIXING = 2  # added to these: which crops are mixed with those of the stream, and how
_READ, _UNREADABLE, _FATAL = 0, 1, 2


def train_batches(
    data, config, *, seed: int, start_step: int, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Endless training batches from step `start_step` on; the batch of step k is a function of (seed, k) alone.

    Each epoch is a fresh permutation, every image once, or as often as data.repeats says (`order.Order`); a batch may
    span two epochs. The processes' batches put together in their order are the batch of a single process.

    Yields:
      'image' uint8 [b, H, W, channels], RGB mostly, 'label' uint8 [b, H, W] of train ids, 'size' int32 [b, 2]: (h, w)
      of the content, the rest being padding (image 0, label 255) at the bottom and right (config.padding: content too);
      b = config.batch_size / process_count.

    Raises (from the iterator): DataError if a file cannot be used and config.on_error is 'stop';
    for an id outside the label table always.
    """
    local = _local_size(config.batch_size, process_count, "data.batch_size")
    order = Order(len(data.train), data.repeats)

    def example(place):
        position = (place // local) * config.batch_size + process_index * local + place % local
        return _augmented(data, config, order, seed, _TRAINING, position // order.length, position % order.length)

    places = tf.data.Dataset.range(start_step * local, tf.int64.max)
    return _deliver(_batched(places, example, local), data.train, config.on_error)


def calibration_batches(
    data, config, *, seed: int, process_index: int = 0, process_count: int = 1, max_images: int | None = None
) -> Iterator[Batch]:
    """One pass over the training set with training augmentation, every image once (or `max_images` of them, at random).

    Yields train_batches' arrays and 'valid' bool [b]: False marks what fills the last batch up, and images that could
    not be read (config.on_error = 'skip'), which must not be measured.
    """
    local = _local_size(config.batch_size, process_count, "data.batch_size")
    count = len(data.train)
    order = Order(count)
    wanted = count if max_images is None else min(count, max_images)
    if wanted < 1:
        raise DataError(f"max_images must be at least 1, found {max_images}")
    steps = -(-wanted // config.batch_size)

    def example(place):
        position = (place // local) * config.batch_size + process_index * local + place % local
        element = _augmented(data, config, order, seed, _CALIBRATION, 0, position % wanted)
        return element | {"valid": (position < wanted) & (element["status"] == _READ)}

    return _deliver(_batched(tf.data.Dataset.range(steps * local), example, local), data.train, config.on_error)


def eval_batches(
    source: Source,
    labels: LabelSpec,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    on_error: str = "stop",
    planned: Callable[[list[tuple[int, int]]], None] = lambda sizes: None,
) -> Iterator[Batch]:
    """Every image of the source exactly once, unchanged and at its own size; a batch holds images of one size.

    The last batch of a size is filled up with black images whose label is 255 everywhere. All processes yield the same
    number of batches, of the same sizes in the same order. batch_size is that of all processes together.

    planned: called before the first batch with the (height, width) of every image, as batches will come.

    Yields:
      'image' uint8 [b, h, w, channels], 'label' uint8 [b, h, w], 'valid' bool [b], 'index' int32 [b] (-1 where not
      valid).
    """
    local = _local_size(batch_size, process_count, "batch_size")
    plan = _plan_by_size(source, batch_size, on_error)
    planned([size for batch in plan for index, size in batch if index >= 0])
    mine = [entry for batch in plan for entry in batch[process_index * local : (process_index + 1) * local]]

    indices = tf.constant([index for index, _ in mine], tf.int32)

    def load(place):
        index, (height, width) = mine[place]
        loaded = _load(source, labels, index) if index >= 0 else (None, None, _READ, "")
        if index >= 0 and loaded[2] == _READ:
            return loaded
        return (
            np.zeros((height, width, source.reading.channels), np.uint8),
            np.full((height, width), IGNORE, np.uint8),
            *loaded[2:],
        )

    def example(place):
        element = _tensors(load, place, source)
        valid = (indices[place] >= 0) & (element["status"] == _READ)
        return element | {"valid": valid, "index": tf.where(valid, indices[place], -1)}

    return _deliver(_batched(tf.data.Dataset.range(len(mine)), example, local), source, on_error)


def train_examples(data, config, *, seed: int, stage: str) -> Iterator[np.ndarray]:
    """Endless, the work of training on one example after the other up to a stage; to measure where the time goes.

    stage: 'read' gives the number of bytes, 'decode' the size, 'augment' the augmented image. Errors are not looked at.
    """
    order = Order(len(data.train), data.repeats)

    def example(place):
        where = place // order.length, place % order.length
        if stage == "augment":
            return _augmented(data, config, order, seed, _TRAINING, *where)["image"]
        index, _, _ = order.at(seed, _TRAINING, *where)
        if stage == "decode":
            return tf.shape(
                _tensors(lambda index: _load(data.train, data.labels, int(index)), index, data.train)["image"]
            )
        return tf.numpy_function(lambda index: sum(map(len, data.train[int(index)][:2])), [index], tf.int64)

    return _mapped(tf.data.Dataset.range(tf.int64.max), example).as_numpy_iterator()


def _augmented(data, config, order: Order, seed: int, stream: int, epoch, position) -> dict[str, tf.Tensor]:
    """The training example at `position` of the epoch, perhaps with a part of another one."""
    index, slot, key = order.at(seed, stream, epoch, position)
    element = _crop(data, config, key, slot, index)
    cutmix, mixed = config.get("cutmix", 0.0), config.get("cutmix", 0.0) + config.get("classmix", 0.0)
    if not mixed:
        return element
    other, other_slot, own = order.at(seed, stream + _MIXING, epoch, position)
    draws = _random.stateless_fold_in(own, position, alg="philox")
    draws = tf.random.stateless_uniform([mixing.NUMBERS + IGNORE], draws, alg="philox")
    paste = functools.partial(mixing.mix, element, draws=draws, cutmix=cutmix)
    return tf.cond(draws[0] < mixed, lambda: paste(other=_crop(data, config, own, other_slot, other)), lambda: element)


def _crop(data, config, key: tf.Tensor, slot: tf.Tensor, index: tf.Tensor) -> dict[str, tf.Tensor]:
    """The example of that index, augmented by the random numbers that `key` and the slot give."""
    cache = data.train.decoded if config.cache else None

    def load(index):
        return _load(data.train, data.labels, int(index), cache, substitute=config.on_error == "skip")

    element = _tensors(load, index, data.train)
    key = _random.stateless_fold_in(key, slot, alg="philox")
    options = transforms.Augmentation(**augmentation_options(config))
    return element | transforms.augment(element["image"], element["label"], key, options)


def training_order(data, *, seed: int, first: int, last: int) -> list[int]:
    """Which of data.train's examples train_batches(seed=seed) shows from place `first` to before `last`."""
    order = Order(len(data.train), data.repeats)
    places = (divmod(place, order.length) for place in range(first, last))
    return [int(order.at(seed, _TRAINING, *place)[0]) for place in places]


def _tensors(load: Callable, index: tf.Tensor, source: Source) -> dict[str, tf.Tensor]:
    """Runs the Python function `load`, which returns what _load does, as a TensorFlow op."""

    def encoded(index):
        image, label, status, message = load(index)
        return image, label, np.int32(status), message.encode()

    image, label, status, message = tf.numpy_function(encoded, [index], [tf.uint8, tf.uint8, tf.int32, tf.string])
    return {
        "image": tf.ensure_shape(image, [None, None, source.reading.channels]),
        "label": tf.ensure_shape(label, [None, None]),
        "status": tf.ensure_shape(status, []),
        "message": tf.ensure_shape(message, []),
    }


def augmentation_options(config) -> dict:
    """The keys of config.data that describe the augmentation, as plain values."""
    return {
        "crop": tuple(config.crop),
        "scale": None if config.scale is None else tuple(config.scale),
        "ratio_range": tuple(config.ratio_range),
        "cat_max_ratio": config.cat_max_ratio,
        "flip": config.flip,
        "photometric": config.photometric,
        # not in the configs of older runs
        "black_padding": config.get("black_padding", False),
        "short_sides": tuple(config.get("short_sides", ())),
        "longest_side": config.get("longest_side"),
        "antialias": config.get("antialias", False),
        "hue": tuple(config.get("hue", transforms.Augmentation.hue)),
        "padding": config.get("padding"),
        "effects": Effects(**{field.name: config.get(field.name, field.default) for field in fields(Effects)}),
    }


def _load(source, labels, index: int, cache: Cache | None = None, substitute: bool = False):
    """(image, label, status, message); errors travel as values, so that they surface at their own step and unchanged.

    An unreadable example gives a one-pixel picture or, with `substitute`, the next readable example of the source: a
    choice that depends on the index alone, so that every process and every resumed run makes the same one.
    """
    if cache is not None and index in cache:
        return *cache[index], _READ, ""
    blank = np.zeros((1, 1, source.reading.channels), np.uint8), np.full((1, 1), IGNORE, np.uint8)
    try:
        image, label = read_example(source, labels, index)
    except LabelError as error:
        return *blank, _FATAL, str(error)
    except DataError as error:
        if not substitute:
            return *blank, _UNREADABLE, str(error)
        for other in range(index + 1, index + len(source)):
            image, label, status, _ = _load(source, labels, other % len(source), cache)
            if status == _READ:
                return image, label, _UNREADABLE, str(error)
        return *blank, _FATAL, f"not one of the {len(source)} examples of {source.name} can be read: {error}"
    if cache is not None:
        cache.keep(index, image, label)
    return image, label, _READ, ""


def _plan_by_size(source: Source, batch_size: int, on_error: str) -> list[list[tuple[int, tuple[int, int]]]]:
    """Batches of (index, (height, width)), one size a batch; index -1 fills the last batch of a size."""
    groups = collections.defaultdict(list)
    for index in range(len(source)):
        try:
            groups[source.size(index)].append(index)
        except DataError as error:
            _report(source, str(error), on_error)
    plan = []
    for size, members in groups.items():
        members += [-1] * (-len(members) % batch_size)
        plan += [[(i, size) for i in members[k : k + batch_size]] for k in range(0, len(members), batch_size)]
    return plan


def _mapped(places: tf.data.Dataset, example: Callable) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = THREADS
    options.threading.max_intra_op_parallelism = 1
    dataset = places.map(
        tf.autograph.experimental.do_not_convert(example), num_parallel_calls=THREADS, deterministic=True
    )
    return dataset.with_options(options)


def _batched(places: tf.data.Dataset, example: Callable, size: int) -> tf.data.Dataset:
    return _mapped(places, example).batch(size, drop_remainder=True).prefetch(2)


def _deliver(dataset: tf.data.Dataset, source: Source, on_error: str) -> Iterator[Batch]:
    batch: Any
    for batch in dataset.as_numpy_iterator():
        for status, message in zip(batch.pop("status"), batch.pop("message"), strict=True):
            if status == _FATAL:
                raise DataError(message.decode())
            if status == _UNREADABLE:
                _report(source, message.decode(), on_error)
        yield batch


def _report(source: Source, message: str, on_error: str) -> None:
    """Stops at an unreadable example, or counts it in source.skipped and says so the first time."""
    if on_error == "stop":
        raise DataError(f"{message}\n(data.on_error='skip' goes on without such files, and counts them)")
    if message not in source.skipped:
        logging.warning("skipped: %s", message)
    source.skipped[message] += 1


def _local_size(batch_size: int, process_count: int, option: str) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise DataError(f"{option}={batch_size} must be a positive multiple of the {process_count} processes")
    return batch_size // process_count
