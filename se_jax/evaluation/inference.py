"""Inference as mmsegmentation 1.2.2 does it: whole or by sliding windows, in one view or in twelve (scales and flips).

Data sets have images of hundreds of sizes, and XLA compiles a program for each shape it is given. The network must see
the reference's very input, since padding changes what pooling, padded convolutions and attention windows compute: it is
compiled once for every size of its input. All that stands around it is linear and acts on rows and columns apart: to
resize, to mirror, to cut a window out, to put it back, to divide by the number of windows that cover a pixel, to resize
again. So everything before the network is one blend of two rows and two columns, and everything behind it one matrix
for the rows and one for the columns, made on the host and given to the device as data, in arrays padded to powers of
two and cut into tiles. These programs are few, whatever the sizes are.

Compilations for the 2000 validation images of ADE20K (616 sizes; counted on the official list of sizes, stride 8):
  whole, fitted to (2048, 512)                  332 of the network, 32 around it: short sides are 512, long ones vary
  windows of 512 x 512, the same fit              1 and 17: no side is below 512
  whole, tta                                   3443 and 79: six ratios of the images' own sizes
  windows of 512 x 512, tta                    1871 and 44: a view lower or narrower than the window is its own window
A data set of one image size, as Cityscapes, compiles the network once, or six times with tta of whole images.
`evaluate` tells the number before it starts, and compiles ahead of the devices in threads (`compile_ahead`).
JAX_COMPILATION_CACHE_DIR=DIR keeps compiled programs from one process to the next.

Memory: logits at the image's size exist for one tile at a time, never for an image; those at the network's own
resolution for the windows that meet the current row of tiles, in every view. That is for decoders whose scores are
resized logits (`Decoder.linear_scores`). Of the others the scores at stride 1 take the place of logits: of the windows
that meet the current row of tiles, each with its sides padded to powers of two, and none of more than `MOST_SCORES`
numbers.
"""

import collections
import concurrent.futures
import functools
import math
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from PIL import Image

from se_jax import parallel
from se_jax.evaluation import geometry
from se_jax.evaluation.compilations import windows
from se_jax.evaluation.images import resized
from se_jax.evaluation.protocol import Protocol
from se_jax.evaluation.seen import Seen
from se_jax.losses.base import IGNORE

MOST_SCORES = 2**30  # numbers, 4 GiB: of one window at stride 1, where scores are not resized logits
TILE = 2**22  # numbers at most in a tile's scores: large ones are slow to get from the system, small ones to start


def fit(images, rows, columns):
    """uint8 [b, h, w, 3] -> uint8 [b, h', w', 3]: its rows, then its columns, blended as `geometry.taps` says.

    The rounding is the reference's, which resizes uint8 images.
    """
    x = images
    for axis, (lower, upper, share) in ((1, rows), (2, columns)):
        share = share.reshape([-1 if a == axis else 1 for a in range(4)])
        below, above = (jnp.take(x, at, axis, mode="clip").astype(jnp.float32) for at in (lower, upper))
        x = below * (1 - share) + above * share
    return jnp.round(x).astype(jnp.uint8)


def _add(total, logits, rows, columns):
    """total [b, t, u, K] plus what a window's logits [b, h, w, K] are on a tile.

    `rows` is (start, [t, h']): the matrix for the h' rows of logits from `start` on, which are all that matter there.
    `columns` is (start, [u, w']), likewise.
    """
    for axis, (start, matrix) in ((1, rows), (2, columns)):
        logits = lax.dynamic_slice_in_dim(logits, start, matrix.shape[1], axis)
    return total + restored(logits, rows[1], columns[1])


def restored(logits, rows, columns):
    """A window's logits [b, h, w, K] on the pixels [b, t, u, K] that matrices [t, h] and [u, w] lead to."""
    half = jnp.einsum("uw,bhwk->bhuk", columns, logits, precision=lax.Precision.HIGHEST)
    return jnp.einsum("th,bhuk->btuk", rows, half, precision=lax.Precision.HIGHEST)


def _class_ids(scores):
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)


def shares(model, views: int, scores):
    """Scores, or of several views their summed probabilities -> probabilities, whose sum over the classes is 1."""
    found = scores if views > 1 else model.probabilities(scores)
    return found / jnp.maximum(found.sum(axis=-1, keepdims=True), 1e-12)


def _surest(model, views: int, scores):
    """(class ids, the probability of each)."""
    return _class_ids(scores), shares(model, views, scores).max(axis=-1)


def _no_counts(metrics, index):
    return index, tuple(metric.init(len(index)) for metric in metrics)


def _count(metrics, states, scores, label):
    return tuple(metric.update(state, scores, label) for metric, state in zip(metrics, states, strict=True))


def _count_whole(metrics, states, ids, label, size):
    given = ids, label, size
    return tuple(
        metric.update_whole(state, *given) if metric.whole else state
        for metric, state in zip(metrics, states, strict=True)
    )


def _put(whole, scores, corner):
    """Class ids [b, h, w] with those of a tile's scores at `corner` (row, column)."""
    return lax.dynamic_update_slice(whole, _class_ids(scores), (0, *corner))


class Inference:
    """A model's compiled inference under a protocol, on a mesh. Batches hold images of one size, split over `data`.

    Attributes:
      logit_sizes: window size -> (h, w) of the logits there, once the network is compiled for it.
      compilations: Counter, program -> how often it was compiled; 'network' once an input size, the others seldom.
    """

    def __init__(self, model, protocol: Protocol, mesh):
        self.model, self.protocol, self.mesh = model, protocol, mesh
        self.compilations = collections.Counter()
        self._lock, self._ahead = threading.Lock(), {}  # what a program is for -> the Future of it
        self.tile = 1 << int(math.log2(TILE / model.num_classes) / 2)  # pixels, a side
        self.logit_sizes = {}
        parts, whole = parallel.split(mesh), parallel.replicated(mesh)
        self._fit = self.compiled("resize", fit, in_shardings=(parts, whole, whole), out_shardings=parts)
        self._network = self.compiled("network", self._logits, static_argnums=2, out_shardings=parts)
        self._segments = self.compiled("segments", self._found_segments, static_argnums=(2, 3), out_shardings=parts)
        self._blank = self.compiled("blank", jnp.zeros, static_argnums=0, out_shardings=parts)
        self._add = self.compiled(
            "restore", _add, in_shardings=(parts, parts, whole, whole), out_shardings=parts, donate_argnums=0
        )
        self._vote = self.compiled("vote", self._add_vote, in_shardings=parts, out_shardings=parts, donate_argnums=0)
        self._class_ids = self.compiled("class ids", _class_ids, in_shardings=parts, out_shardings=parts)
        self._shares, self._surest = (
            self.compiled(name, functools.partial(fn, model), static_argnums=0, in_shardings=parts, out_shardings=parts)
            for name, fn in (("probabilities", shares), ("class ids", _surest))
        )
        self._no_counts = self.compiled("blank", _no_counts, static_argnums=0, in_shardings=parts, out_shardings=whole)
        self._count = self.compiled(
            "count", _count, static_argnums=0, in_shardings=(whole, parts, parts), out_shardings=whole
        )
        self._no_ids = self.compiled(
            "blank", functools.partial(jnp.zeros, dtype=jnp.uint8), static_argnums=0, out_shardings=parts
        )
        self._put = self.compiled(
            "put", _put, in_shardings=(parts, parts, whole), out_shardings=parts, donate_argnums=0
        )
        self._count_whole = self.compiled(
            "count", _count_whole, static_argnums=0, in_shardings=(whole, parts, parts, whole), out_shardings=whole
        )

    def compiled(self, name: str, fn, **options):
        """`fn` jitted with `options`, its compilations counted under `name`."""

        @functools.wraps(fn)
        def counted(*args):
            with self._lock:
                self.compilations[name] += 1  # Python runs while tracing only, which is once a compilation
            return fn(*args)

        return parallel.jit(counted, mesh=self.mesh, **options)

    def tile_length(self, length: int) -> int:
        """Pixels of a tile along an axis of that length."""
        return min(self.tile, geometry.bucket(length))

    def tiles(self, length: int) -> list[slice]:
        """An axis cut into tiles, the last one cut off by the border."""
        side = self.tile_length(length)
        return [slice(start, min(start + side, length)) for start in range(0, length, side)]

    def scores(self, variables, images, views=None, size=None):
        """Images -> scores of every class, tile by tile; of several views, their summed probabilities.

        Args:
          variables: what the model's `apply` takes, replicated or sharded over the mesh, or on the host.
          images: this process's part of uint8 [b, h, w, 3] (RGB), on the host.
          views: how they are shown to the network; those of the protocol by default.
          size: (height, width) of the scores, by default those of the images.

        Yields:
          (rows, columns, float32 [b, t, u, K]): the tile's scores lie in its upper left corner, [b, rows, columns, K].
        """
        size = size or images.shape[1:3]
        views = self.protocol.views(size) if views is None else views
        images = self._as_seen(images)
        images = (
            parallel.shard_batch(self.mesh, geometry.padded(images, map(geometry.bucket, images.shape[1:3]))),
            images.shape[1:3],
        )
        seen = [Seen(self, variables, *images, view, size) for view in views]
        shape = (images[0].shape[0], *map(self.tile_length, size), self.model.num_classes)
        for rows in self.tiles(size[0]):
            for columns in self.tiles(size[1]):
                parts = (view.logits(rows, columns, self._blank(shape)) for view in seen)
                if len(seen) == 1:
                    yield rows, columns, next(parts)
                else:
                    yield rows, columns, functools.reduce(self._vote, parts, self._blank(shape))
            for view in seen:
                view.forget(above=rows.stop)

    def class_ids(self, variables, images, views=None) -> np.ndarray:
        """uint8 images [b, h, w, 3] (RGB) -> uint8 class ids [b, h, w]. All on the host, in one process."""
        (ids,) = self._whole(lambda _, scores: (self._class_ids(scores),), variables, images, views, [((), np.uint8)])
        return ids

    def surest(self, variables, images, views=None) -> tuple[np.ndarray, np.ndarray]:
        """Likewise (class ids, the probability of each: float32 [b, h, w])."""
        ids, found = self._whole(self._surest, variables, images, views, [((), np.uint8), ((), np.float32)])
        return ids, found

    def probabilities(self, variables, images, views=None) -> np.ndarray:
        """Likewise the probabilities of all classes, float32 [b, h, w, K], whose sum is 1.

        Of several views their mean. Scores that are no logits (`Decoder.probabilities`) are divided by their sum.
        """
        kind = [((self.model.num_classes,), np.float32)]
        (found,) = self._whole(lambda *args: (self._shares(*args),), variables, images, views, kind)
        return found

    def _whole(self, program, variables, images, views, kinds) -> tuple[np.ndarray, ...]:
        """What `program(number of views, scores)` makes of every tile, put together: an array a kind, (axes, dtype)."""
        views = self.protocol.views(images.shape[1:3]) if views is None else views
        whole = tuple(np.zeros((*images.shape[:3], *axes), dtype) for axes, dtype in kinds)
        for rows, columns, scores in self.scores(variables, images, views):
            for array, tile in zip(whole, program(len(views), scores), strict=True):
                height, width = rows.stop - rows.start, columns.stop - columns.start
                array[:, rows, columns] = np.asarray(tile)[:, :height, :width]
        return whole

    def segments(self, variables, image, most: int) -> dict[str, np.ndarray] | None:
        """The surest masks that the scores are the sum of (`Decoder.segments`), in the first view or its first window.

        image: uint8 [h, w, 3]. With 'image', what the network saw: uint8 [h', w', 3]. None where there are no such
        masks. In one process.
        """
        if not self.model.decoder.has_segments:
            return None
        size, images = image.shape[:2], self._as_seen(image[None])
        shown = images.shape[1:3]
        images = parallel.shard_batch(self.mesh, geometry.padded(images, map(geometry.bucket, shown)))
        seen = Seen(self, variables, images, shown, self.protocol.views(size)[0], size)
        found = self._segments(variables, self._fit(seen.images, *seen.blends(0, 0)), seen.window, most)
        return {name: np.asarray(array)[0] for name, array in found.items()}

    def _as_seen(self, images):
        """Images uint8 [b, h, w, 3] as PIL resizes them, bilinearly and antialiased, where the protocol wants that."""
        height, width = self.protocol.seen_size(images.shape[1:3])
        if (height, width) == images.shape[1:3]:
            return images
        return np.stack([resized(image, (height, width), Image.Resampling.BILINEAR) for image in images])

    def count(self, metrics, variables, batch) -> tuple:
        """What metrics count of the predictions for a batch.

        Args:
          metrics: a tuple of `se_jax.evaluation.metrics.Metric`s.
          batch: this process's part of image uint8 [b, h, w, 3], label uint8 [b, h, w] and index int32 [b].

        Returns:
          (index of the whole batch, a state for each metric), on every device.
        """
        index, states = self._no_counts(metrics, parallel.shard_batch(self.mesh, batch["index"]))
        size, whole = batch["label"].shape[1:3], any(metric.whole for metric in metrics)
        full = tuple(len(self.tiles(side)) * self.tile_length(side) for side in size)
        ids = self._no_ids((len(index), *full)) if whole else None
        for rows, columns, scores in self.scores(variables, batch["image"]):
            label = geometry.padded(batch["label"][:, rows, columns], scores.shape[1:3], IGNORE)
            states = self._count(metrics, states, scores, parallel.shard_batch(self.mesh, label))
            if whole:
                ids = self._put(ids, scores, np.array([rows.start, columns.start], np.int32))
        if whole:
            label = parallel.shard_batch(self.mesh, geometry.padded(batch["label"], full, IGNORE))
            states = self._count_whole(metrics, states, ids, label, np.array(size, np.int32))
        return index, states

    def _add_vote(self, total, scores):
        return total + self.model.probabilities(scores)

    def lower_network(self, variables, inputs, size: tuple[int, int]):
        """The network's program for windows of `size`, to be compiled: jax.stages.Lowered.

        variables, inputs: as of the network, or their shapes with shardings. inputs: uint8 [b, h', w', 3], padded.
        """
        return self._network.lower(variables, inputs, size)

    def window_logits(self, variables, images, blends, size):
        """Logits (or scores) [b, h, w, K], padded, of a window of `size` that `blends` cut out of the images."""
        inputs = self._fit(images, *blends)
        program = self._ahead.get((_signature(variables), len(inputs), size)) if self._ahead else None
        if program is None or program.cancelled():
            return self._network(variables, inputs, size)
        return program.result()(variables, inputs)

    def compile_ahead(self, variables, images: int, sizes) -> list[concurrent.futures.Future]:
        """Begins to compile the network, in threads, for batches of `images` images of `sizes`, in their order.

        What is compiled already is not compiled again.

        Args:
          variables: as of `scores`, on the devices. images: of all processes together.

        Returns:
          What is being compiled; cancel what is not needed any more.
        """
        signature, begun = _signature(variables), []
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), variables)
        # processes that wait for each other while they compile must do so in one order
        pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() if jax.process_count() == 1 else 1, "compile")
        for size in windows(self.protocol, sizes):
            key = signature, images, size
            if key not in self._ahead or self._ahead[key].cancelled():
                self._ahead[key] = pool.submit(self._compile_network, shapes, images, size)
                begun.append(self._ahead[key])
        pool.shutdown(wait=False)
        return begun

    def _compile_network(self, shapes, images: int, size):
        padded = (images, *map(geometry.bucket, size), self.model.channels)
        inputs = jax.ShapeDtypeStruct(padded, jnp.uint8, sharding=parallel.split(self.mesh))
        return self.lower_network(shapes, inputs, size).compile()

    def _found_segments(self, variables, inputs, size, most):
        """What `segments` finds in the first `size` pixels of uint8 [b, h', w', 3]."""
        images = inputs[:, : size[0], : size[1]]
        outputs = self.model.apply(variables, self.model.normalize(images))
        return self.model.segments(outputs, size, most) | {"image": images}

    def _logits(self, variables, inputs, size):
        """uint8 [b, h', w', 3] -> float32 logits (or scores) of its first `size` pixels, padded to buckets."""
        height, width = size
        outputs = self.model.apply(variables, self.model.normalize(inputs[:, :height, :width]))
        if self.model.linear_scores:
            logits = outputs["logits"]
        else:
            _check_scores(len(inputs), size, self.model.num_classes)
            logits = self.model.scores(outputs, size)
        self.logit_sizes[size] = logits.shape[1:3]  # known while tracing, which is before any call returns
        h, w = logits.shape[1:3]
        return jnp.pad(logits, ((0, 0), (0, geometry.bucket(h) - h), (0, geometry.bucket(w) - w), (0, 0)))


def _signature(variables) -> tuple:
    """What a program that is compiled for them depends on."""
    leaves, structure = jax.tree.flatten(variables)
    return structure, tuple((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves)


def _check_scores(images: int, size: tuple[int, int], classes: int) -> None:
    if (count := images * math.prod(map(geometry.bucket, size)) * classes) > MOST_SCORES:
        raise ValueError(
            f"the scores of {images} windows of {size[0]}x{size[1]} pixels and {classes} classes are {count:,} "
            f"numbers, more than the {MOST_SCORES:,} that are held at once; set eval.batch_size=1, or "
            "eval.mode='slide' and a smaller eval.window"
        )


def build(model, protocol: Protocol, mesh=None) -> Inference:
    """The Inference of a model under a protocol; always the same one, as a run evaluates often and compiles once.

    `mesh` is by default this process's first device.
    """
    return _build(model, protocol, mesh or parallel.make_mesh(devices=jax.local_devices()[:1]))


_build = functools.lru_cache(maxsize=8)(Inference)
