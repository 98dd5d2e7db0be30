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
JAX_COMPILATION_CACHE_DIR=DIR keeps compiled programs from one process to the next.

Memory: logits at the image's size exist for one tile at a time, never for an image; those at the network's own
resolution for the windows that meet the current row of tiles, in every view.
"""

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from se_jax import geometry, losses, metrics, parallel
from se_jax.models.segmenter import normalize

MODES = ("whole", "slide")
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of an image's own size: the reference's test-time augmentation
TILE = 2**22  # numbers at most in a tile's scores: large ones are slow to get from the system, small ones to start


# ---- The protocol: config.eval ----


@dataclasses.dataclass(frozen=True)
class View:
    """One way an image is shown to the network: at which (height, width), and whether left and right are swapped.

    fitted: the size that it is resized to before, if it is resized twice.
    """

    size: tuple[int, int]
    mirrored: bool = False
    fitted: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How an image becomes class ids; the options of config.eval, checked, with the defaults of those not given."""

    mode: str = "whole"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    tta: bool = False
    scale: tuple[int, int] | None = None
    size_multiple: int = 1

    def views(self, size: tuple[int, int]) -> list[View]:
        """The views of an image of `size` = (height, width), in the reference's order."""
        if not self.tta:
            return [self._view(size, self.scale)]
        height, width = size
        scales = [(int(width * ratio + 0.5), int(height * ratio + 0.5)) for ratio in RATIOS]
        return [self._view(size, scale, mirrored) for scale in scales for mirrored in (False, True)]

    def _view(self, size: tuple[int, int], scale, mirrored: bool = False) -> View:
        """Sides are rounded up to `size_multiple` by a second resize, as by the reference's ResizeToMultiple."""
        fitted = input_size(*size, scale)
        rounded = tuple(_round_up(side, self.size_multiple) for side in fitted)
        return View(rounded, mirrored, None if fitted in (size, rounded) else fitted)

    def windows(self, length: int, axis: int) -> tuple[int, tuple[int, ...]]:
        """(length of a window, where windows start) along an axis (0: height) of a network input of that `length`."""
        if self.mode == "whole" or length <= self.window[axis]:
            return length, (0,)
        window, stride = self.window[axis], self.stride[axis]
        count = -(-(length - window) // stride) + 1
        return window, tuple(min(i * stride, length - window) for i in range(count))  # the last ends at the border


def protocol(config) -> Protocol:
    """The Protocol that config.eval describes. Options it lacks have their defaults.

    Raises:
      ValueError: an option cannot be; names it.
    """
    mode, tta = config.get("mode", "whole"), config.get("tta", False)
    if mode not in MODES:
        raise ValueError(f"eval.mode is {mode!r}; expected one of {', '.join(MODES)}")
    if not isinstance(tta, bool):
        raise ValueError(f"eval.tta is {tta!r}; expected True (six scales, plain and mirrored) or False")
    scale = _pair(config, "scale", "(width, height), or None (no resize)")
    multiple = config.get("size_multiple", 1)
    if not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"eval.size_multiple is {multiple!r}; give a positive integer; 1 rounds no side up")
    if mode == "whole":  # the other two options wait for the other mode
        return Protocol(mode, None, None, tta, scale, multiple)
    window, stride = (_pair(config, name, "(height, width)") for name in ("window", "stride"))
    for name, value in (("window", window), ("stride", stride)):
        if value is None:
            raise ValueError(f"eval.{name} is None; eval.mode='slide' needs two positive integers (height, width)")
    if any(step > side for step, side in zip(stride, window, strict=True)):
        raise ValueError(
            f"eval.stride {stride} is larger than eval.window {window}: pixels between windows would be left out; "
            "give a stride of at most the window"
        )
    longest = None if scale is None else _round_up(max(scale), multiple)
    if longest is not None and not tta and max(window) > longest:
        raise ValueError(
            f"eval.window {window} is larger than allowed: no side of an image fitted to eval.scale {scale} is longer "
            f"than {longest}; give a smaller window, or eval.mode='whole'"
        )
    return Protocol(mode, window, stride, tta, scale, multiple)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def check(model, config) -> None:
    """Raises ValueError where config.eval would show a network images of sizes that it cannot take."""
    given, multiple = protocol(config), model.size_multiple
    if given.size_multiple % multiple or any(side % multiple for side in given.window or ()):
        window = f" and eval.window {given.window}" if given.window else ""
        raise ValueError(
            f"eval.size_multiple is {given.size_multiple}{window}; the sides of this network's images are multiples of "
            f"{multiple}: set eval.size_multiple={multiple}{', and a window of such sides' if window else ''}"
        )


def _pair(config, name: str, expected: str) -> tuple[int, int] | None:
    value = config.get(name)
    if value is None:
        return None
    numbers = isinstance(value, (tuple, list)) and all(isinstance(side, (int, float)) for side in value)
    if not numbers or len(value) != 2 or any(int(side) != side or side < 1 for side in value):
        raise ValueError(f"eval.{name} is {value!r}; give two positive integers {expected}")
    return tuple(int(side) for side in value)


def input_size(height: int, width: int, scale: tuple[int, int] | None) -> tuple[int, int]:
    """(h, w) of the network's input: the largest of the image's shape whose sides fit into `scale`, long to long.

    `scale` is two numbers in any order, as in the reference's Resize(keep_ratio=True); None keeps the image's size.
    """
    if scale is None:
        return height, width
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


# ---- Programs, on the devices ----


def _fit(images, rows, columns):
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
    half = jnp.einsum("uw,bhwk->bhuk", columns[1], logits, precision=lax.Precision.HIGHEST)
    return total + jnp.einsum("th,bhuk->btuk", rows[1], half, precision=lax.Precision.HIGHEST)


def _vote(total, logits):
    return total + jax.nn.softmax(logits, axis=-1)


def _class_ids(scores):
    return jnp.argmax(scores, axis=-1).astype(jnp.uint8)


def _no_counts(index, classes):
    def zeros(*shape):
        return jnp.zeros(shape, jnp.int32)

    return {"index": index, "confusion": zeros(classes, classes), "areas": zeros(len(index), 2, classes)}


def _count(counts, scores, label):
    ids, classes = jnp.argmax(scores, axis=-1), scores.shape[-1]
    return counts | {
        "confusion": counts["confusion"] + metrics.confusion_matrix(ids, label, classes),
        "areas": counts["areas"] + metrics.areas(ids, label, classes),
    }


class Inference:
    """A model's compiled inference under a protocol, on a mesh. Batches hold images of one size, split over `data`.

    Attributes:
      logit_sizes: window size -> (h, w) of the logits there, once the network is compiled for it.
      compilations: Counter, program -> how often it was compiled; 'network' once an input size, the others seldom.
    """

    def __init__(self, model, protocol: Protocol, mesh):
        self.model, self.protocol, self.mesh = model, protocol, mesh
        self.compilations = collections.Counter()
        self.tile = 1 << int(math.log2(TILE / model.num_classes) / 2)  # pixels, a side
        self.logit_sizes = {}
        parts, whole = parallel.split(mesh), parallel.replicated(mesh)
        self._fit = self.compiled("resize", _fit, in_shardings=(parts, whole, whole), out_shardings=parts)
        self._network = self.compiled("network", self._logits, static_argnums=2, out_shardings=parts)
        self._blank = self.compiled("blank", jnp.zeros, static_argnums=0, out_shardings=parts)
        self._add = self.compiled(
            "restore", _add, in_shardings=(parts, parts, whole, whole), out_shardings=parts, donate_argnums=0
        )
        self._vote = self.compiled("vote", _vote, in_shardings=parts, out_shardings=parts, donate_argnums=0)
        self._class_ids = self.compiled("class ids", _class_ids, in_shardings=parts, out_shardings=parts)
        self._no_counts = self.compiled("blank", _no_counts, static_argnums=1, in_shardings=parts, out_shardings=whole)
        self._count = self.compiled("count", _count, in_shardings=(whole, parts, parts), out_shardings=whole)

    def compiled(self, name: str, fn, **options):
        """`fn` jitted with `options`, its compilations counted under `name`."""

        @functools.wraps(fn)
        def counted(*args):
            self.compilations[name] += 1  # Python runs while tracing only, which is once a compilation
            return fn(*args)

        return parallel.jit(counted, **options)

    def tile_length(self, length: int) -> int:
        """Pixels of a tile along an axis of that length."""
        return min(self.tile, geometry.bucket(length))

    def tiles(self, length: int) -> list[slice]:
        """An axis cut into tiles, the last one cut off by the border."""
        side = self.tile_length(length)
        return [slice(start, min(start + side, length)) for start in range(0, length, side)]

    def scores(self, variables, images, views=None, size=None):
        """Images -> scores of every class, tile by tile: logits or, of several views, their summed probabilities.

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
        images = (
            parallel.shard_batch(self.mesh, geometry.padded(images, map(geometry.bucket, images.shape[1:3]))),
            images.shape[1:3],
        )
        seen = [_Seen(self, variables, *images, view, size) for view in views]
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

    def class_ids(self, variables, images) -> np.ndarray:
        """uint8 images [b, h, w, 3] (RGB) -> uint8 class ids [b, h, w]. All on the host, in one process."""
        ids = np.zeros(images.shape[:3], np.uint8)
        for rows, columns, scores in self.scores(variables, images):
            found = np.asarray(self._class_ids(scores))
            ids[:, rows, columns] = found[:, : rows.stop - rows.start, : columns.stop - columns.start]
        return ids

    def count(self, variables, batch) -> dict:
        """What the predictions for a batch are worth.

        Args:
          batch: this process's part of image uint8 [b, h, w, 3], label uint8 [b, h, w] and index int32 [b].

        Returns:
          Of the whole batch, on every device, int32: confusion [K, K]; each image's areas [b, 2, K], the intersection
          and union of prediction and label; index [b], which image that is.
        """
        index = parallel.shard_batch(self.mesh, batch["index"])
        counts = self._no_counts(index, self.model.num_classes)
        for rows, columns, scores in self.scores(variables, batch["image"]):
            label = geometry.padded(batch["label"][:, rows, columns], scores.shape[1:3], losses.IGNORE)
            counts = self._count(counts, scores, parallel.shard_batch(self.mesh, label))
        return counts

    def window_logits(self, variables, images, blends, size):
        """Logits [b, h, w, K], padded, of a window of `size` that `blends` cut out of the images."""
        return self._network(variables, self._fit(images, *blends), size)

    def _logits(self, variables, inputs, size):
        """uint8 [b, h', w', 3] -> float32 logits of its first `size` pixels, padded to buckets."""
        height, width = size
        logits = self.model.apply(variables, normalize(inputs[:, :height, :width]))["logits"]
        self.logit_sizes[size] = logits.shape[1:3]  # known while tracing, which is before any call returns
        h, w = logits.shape[1:3]
        return jnp.pad(logits, ((0, 0), (0, geometry.bucket(h) - h), (0, geometry.bucket(w) - w), (0, 0)))


def build(model, protocol: Protocol, mesh=None) -> Inference:
    """The Inference of a model under a protocol; always the same one, as a run evaluates often and compiles once.

    `mesh` is by default this process's first device.
    """
    return _build(model, protocol, mesh or parallel.make_mesh(devices=jax.local_devices()[:1]))


_build = functools.lru_cache(maxsize=8)(Inference)


class _Seen:
    """A batch in one view: computes the windows that a tile needs when it needs them, and keeps them while it does."""

    def __init__(self, inference: Inference, variables, images, image_size, view: View, size):
        self.inference, self.variables, self.images = inference, variables, images
        self.image_size, self.view, self.size = image_size, view, size
        if view.fitted is not None:
            blends = (_padded(geometry.taps(*lengths)) for lengths in zip(image_size, view.fitted, strict=True))
            self.images, self.image_size = inference._fit(images, *blends), view.fitted
        self.window, self.starts = zip(*map(inference.protocol.windows, view.size, (0, 1)), strict=True)
        self.kept = {}  # (i, j) -> logits of the window in row i and column j
        self.matrices = self.bands = None  # for rows and for columns

    def logits(self, rows: slice, columns: slice, total):
        """`total` plus the view's logits on a tile."""
        if self.matrices is None:
            self._start()
        across = [(j, self._tile(1, j, columns)) for j in self._meeting(1, columns)]
        for i in self._meeting(0, rows):
            along = self._tile(0, i, rows)
            for j, matrix in across:
                total = self.inference._add(total, self._window(i, j), along, matrix)
        return total

    def forget(self, above: int) -> None:
        """Lets go of the windows that no row of the image from `above` on needs."""
        needed = set(self._meeting(0, slice(above, None)))
        self.kept = {place: logits for place, logits in self.kept.items() if place[0] in needed}

    def _meeting(self, axis: int, tile: slice) -> list[int]:
        """Windows along an axis that matter in a tile."""
        return np.flatnonzero(self.matrices[axis][:, tile].any(axis=(1, 2))).tolist()

    def _tile(self, axis: int, window: int, tile: slice):
        """(start, matrix) of a window on a tile, as `_add` takes them."""
        matrix = self.matrices[axis][window, tile]
        start = min(int(matrix.any(axis=0).argmax()), geometry.bucket(matrix.shape[1]) - self.bands[axis])
        matrix = matrix[:, start : start + self.bands[axis]]
        full = np.zeros((self.inference.tile_length(self.size[axis]), self.bands[axis]), np.float32)
        full[: matrix.shape[0], : matrix.shape[1]] = matrix
        return np.int32(start), full

    def _start(self) -> None:
        self._window(0, 0)  # only the network knows the size of its logits
        align_corners = self.inference.model.align_corners
        logits, sides = self.inference.logit_sizes[self.window], (False, self.view.mirrored)
        lengths = zip(logits, self.window, self.starts, self.view.size, self.size, sides, strict=True)
        self.matrices = [geometry.restoration(*given, mirrored, align_corners) for *given, mirrored in lengths]
        self.bands = [geometry.band(m, self.inference.tiles(m.shape[1])) for m in self.matrices]

    def _window(self, i: int, j: int):
        if (i, j) not in self.kept:
            blends = [self._blend(0, self.starts[0][i], False), self._blend(1, self.starts[1][j], self.view.mirrored)]
            self.kept[i, j] = self.inference.window_logits(self.variables, self.images, blends, self.window)
        return self.kept[i, j]

    def _blend(self, axis: int, start: int, mirrored: bool):
        """`geometry.taps` of a window's pixels in the image, padded."""
        fitted = geometry.taps(self.image_size[axis], self.view.size[axis])
        return _padded([array[:: -1 if mirrored else 1][start : start + self.window[axis]] for array in fitted])


def _padded(taps):
    """`geometry.taps`, padded, as `_fit` takes them."""
    lower, upper, share = (np.pad(array, (0, geometry.bucket(len(array)) - len(array))) for array in taps)
    return lower, upper, share.astype(np.float32)
