"""Random augmentation of one picture as stateless tf ops: the result depends on the picture and the seed alone.

The reference is mmsegmentation 1.2.2 (RandomResize, RandomCrop, RandomFlip, PhotoMetricDistortion), whose images pass
through OpenCV as uint8. Every step here gives and takes uint8 like it; what differs is said at each function. Options
give detectron2's ways (ResizeShortestEdge, ColorAugSSDTransform), whose images pass through PIL.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from data_pipelines import effects
from data_pipelines.effects import Effects
from data_pipelines.labels import IGNORE

REDRAWS = 10  # of a crop that one class dominates; the last one is taken whatever it holds
_random: Any = getattr(tf.random, "experimental")  # noqa: B009, which type checkers do not know
_EFFECTS = 1  # their stream of random numbers
_RANDOM_NUMBERS = 1 + 2 * (REDRAWS + 1) + 1 + 9


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The parameters of `augment`; se_jax/config/options.py says what they mean."""

    crop: tuple[int, int]
    scale: tuple[int, int] | None = None
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    black_padding: bool = False
    short_sides: tuple[int, ...] = ()
    longest_side: int | None = None
    antialias: bool = False
    hue: tuple[int, int] = (-18, 17)
    padding: int | None = None
    effects: Effects = Effects()

    @property
    def fill(self) -> int | None:
        """The grey of padding that counts as content; None where zeros after normalisation do."""
        return 0 if self.black_padding and self.padding is None else self.padding


def augment(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, options: Augmentation) -> dict[str, tf.Tensor]:
    """Random scale, crop, flip, photometric distortion, effects; then padding at the bottom and right to the crop.

    Args:
      image: uint8 [h, w, channels]; label: uint8 [h, w] of train ids; seed: int [2].

    Returns:
      'image' uint8 [H, W, channels] (padding 0), 'label' uint8 [H, W] (padding 255), 'size' int32 [2]: (h, w) of the
      content, what lies outside it being set to zero after normalisation. With `padding`, or black_padding, the padding
      has that grey and counts as content.
    """
    draws = tf.random.stateless_uniform([_RANDOM_NUMBERS], seed, alg="philox")
    ratio, offsets, mirror, colour = tf.split(draws, [1, 2 * (REDRAWS + 1), 1, 9])
    size = random_size(tf.shape(label), ratio[0], options)
    image, label = random_crop(image, label, size, tf.reshape(offsets, [REDRAWS + 1, 2]), options)
    if options.flip > 0:
        flip = mirror[0] < options.flip
        image = tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image)
        label = tf.cond(flip, lambda: tf.reverse(label, [1]), lambda: label)
    if options.photometric:
        image = photometric_distortion(image, colour, options.hue)
    if options.effects.any:  # of random numbers of their own, so that those above stay what they are without them
        own = _random.stateless_fold_in(seed, _EFFECTS, alg="philox")
        image, label = effects.apply(image, label, own, options.effects)
    content = tf.shape(label)
    missing = options.crop - content
    ends: Any = [[0, missing[0]], [0, missing[1]], [0, 0]]

    def padded(pixels: tf.Tensor, value: int) -> tf.Tensor:
        add = functools.partial(tf.pad, pixels, ends[: len(pixels.shape)], constant_values=value)
        pixels = tf.cond(tf.reduce_any(missing > 0), add, lambda: pixels)
        return tf.ensure_shape(pixels, (*options.crop, *pixels.shape[2:]))

    return {
        "image": padded(image, options.fill or 0),
        "label": padded(label, IGNORE),
        "size": content if options.fill is None else tf.constant(options.crop),
    }


def random_size(size: tf.Tensor, draw: tf.Tensor, options: Augmentation) -> tf.Tensor:
    """int32 (h, w) after the random scale: the base (w, h) times a ratio, truncated, then filled keeping the shape.

    With `short_sides`: one of these is the shorter side, if the longer one then is no longer than `longest_side`.
    """
    if options.short_sides:
        count = len(options.short_sides)
        place = tf.minimum(tf.cast(draw * count, tf.int32), count - 1)
        return shortest_side_size(size, tf.gather(tf.constant(options.short_sides), place), options.longest_side)
    low, high = options.ratio_range
    ratio = low + (high - low) * tf.cast(draw, tf.float64)
    base = tf.cast(tf.reverse(size, [0]) if options.scale is None else options.scale, tf.float64)
    return rescaled_size(size, tf.cast(base * ratio, tf.int32))


def shortest_side_size(size: tf.Tensor, side: tf.Tensor, longest: int | None) -> tf.Tensor:
    """int32 (h, w): `size` scaled to a shorter side of `side`, and no longer than `longest`; detectron2's rounding."""
    size = tf.cast(size, tf.float64)
    scaled = size * (tf.cast(side, tf.float64) / tf.reduce_min(size))
    if longest is not None:
        scaled *= tf.minimum(longest / tf.reduce_max(scaled), 1.0)
    return tf.maximum(tf.cast(scaled + 0.5, tf.int32), 1)


def rescaled_size(size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """int32 (h, w): `size` (h, w) enlarged to the most that fits the two bounds `scale`, in whichever orientation."""
    size, scale = tf.cast(size, tf.float64), tf.cast(scale, tf.float64)
    factor = tf.minimum(
        tf.reduce_max(scale) / tf.reduce_max(size),
        tf.reduce_min(scale) / tf.reduce_min(size),
    )
    return tf.maximum(tf.cast(size * factor + 0.5, tf.int32), 1)


def random_crop(image, label, size, draws, options: Augmentation) -> tuple[tf.Tensor, tf.Tensor]:
    """The crop of the picture scaled to `size`; smaller pictures give smaller crops.

    Draws again while the crop holds fewer than two classes or one class covers `cat_max_ratio` or more of its
    non-ignored pixels, REDRAWS times at most; the last redraw is not looked at. Only the part of the picture that the
    crop shows is scaled, which is several times cheaper. draws: float32 [REDRAWS + 1, 2] in [0, 1).
    """
    extent = tf.minimum(size, options.crop)
    corners = tf.cast(tf.cast(size - extent + 1, tf.float32) * draws, tf.int32)
    corners = tf.minimum(corners, size - extent)  # a draw of 1 - 2^-24 may round up

    def cropped(k):
        return resize_window_nearest(label, size, corners[k], extent)

    if options.cat_max_ratio < 1:
        _, corner, label = tf.while_loop(
            lambda k, corner, label: (k < REDRAWS) & tf.logical_not(is_varied(label, options.cat_max_ratio)),
            lambda k, corner, label: (k + 1, corners[k + 1], cropped(k + 1)),
            (0, corners[0], cropped(0)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([2]), tf.TensorShape([None, None])),
        )
    else:
        corner, label = corners[0], cropped(0)
    resize = resize_window_antialiased if options.antialias else resize_window_bilinear
    return resize(image, size, corner, extent), label


def is_varied(label: tf.Tensor, cat_max_ratio: float) -> tf.Tensor:
    """Whether a crop holds at least two classes, none of them on `cat_max_ratio` or more of the non-ignored pixels."""
    ids = tf.cast(tf.reshape(label, [-1]), tf.int32)
    counts = tf.raw_ops.Bincount(arr=ids, size=256, weights=tf.zeros([0], tf.int32))[:IGNORE]
    largest, total = tf.reduce_max(counts), tf.reduce_sum(counts)
    # The quotient in float64 as in the reference, where exactly 0.75 is refused; empty crops stop at the first test.
    share = tf.cast(largest, tf.float64) / tf.cast(tf.maximum(total, 1), tf.float64)
    return (tf.math.count_nonzero(counts) > 1) & (share < cat_max_ratio)


def resize_window_bilinear(image: tf.Tensor, size: tf.Tensor, corner: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """uint8 [extent, 3]: the window at `corner` of `image` bilinearly scaled to `size` (half-pixel, no antialias).

    Differs from OpenCV, which rounds its weights to 11 bits, by at most one level.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    scale = tf.cast(size, tf.float64) / shape
    first = (tf.cast(corner, tf.float64) + 0.5) / scale - 0.5
    last = (tf.cast(corner + extent, tf.float64) - 0.5) / scale - 0.5
    low = tf.maximum(tf.math.floor(first), 0)  # the neighbours that interpolation reads, so the window changes no pixel
    high = tf.minimum(tf.math.floor(last) + 2, shape)
    rows, columns = tf.unstack(tf.cast(low, tf.int32)), tf.unstack(tf.cast(high, tf.int32))
    window = image[rows[0] : columns[0], rows[1] : columns[1]]
    move = low * scale - tf.cast(corner, tf.float64)
    result = _scaled_rows(window, extent[0], scale[0], move[0])
    result = _scaled_rows(tf.transpose(result, [1, 0, 2]), extent[1], scale[1], move[1])
    # rounded; weights add up to 1, so nothing leaves 0..255
    return tf.transpose(tf.cast(result + 0.5, tf.uint8), [1, 0, 2])


def _scaled_rows(image: tf.Tensor, count: tf.Tensor, scale, move, antialias: bool = False) -> tf.Tensor:
    """float32 [count, w, channels]: the rows of `image`, of any number type, scaled and moved, interpolated linearly.

    The kernel takes its inner loop over channels, so a row is given as one pixel of many channels: it is some times
    faster than scaling both sides at once, and the sums are the same.
    """
    width: Any = tf.shape(image)[1]
    channels: Any = image.shape[2]
    result = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, [1, tf.shape(image)[0], 1, width * channels]),
        size=tf.stack([count, 1]),
        scale=tf.stack([tf.cast(scale, tf.float32), 1.0]),
        translation=tf.stack([tf.cast(move, tf.float32), 0.0]),
        kernel_type="triangle",
        antialias=antialias,
    )
    return tf.reshape(result, [count, width, channels])


def resize_window_antialiased(image: tf.Tensor, size: tf.Tensor, corner: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """uint8 [extent, 3]: the window at `corner` of `image` scaled to `size` by PIL's bilinear filter.

    Shrunk images are averaged, by a triangle as wide as two pixels of the result. Columns go first, and are rounded, as
    there; PIL's weights are of fixed point, which is seen in few values, and there in one level.
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    scale = tf.cast(size, tf.float64) / shape
    reach = tf.maximum(1 / scale, 1.0)
    low = tf.maximum(tf.math.floor((tf.cast(corner, tf.float64) + 0.5) / scale - 0.5 - reach), 0)
    high = tf.minimum(tf.math.ceil((tf.cast(corner + extent, tf.float64) - 0.5) / scale - 0.5 + reach) + 1, shape)
    rows, columns = tf.unstack(tf.cast(low, tf.int32)), tf.unstack(tf.cast(high, tf.int32))
    window = image[rows[0] : columns[0], rows[1] : columns[1]]
    move = low * scale - tf.cast(corner, tf.float64)
    for axis in (1, 0):  # the axis is the rows while it is scaled
        window = _scaled_rows(tf.transpose(window, [1, 0, 2]), extent[axis], scale[axis], move[axis], antialias=True)
        window = tf.cast(window + 0.5, tf.uint8)
    return window


def resize_window_nearest(label: tf.Tensor, size: tf.Tensor, corner: tf.Tensor, extent: tf.Tensor) -> tf.Tensor:
    """uint8 [extent]: the window at `corner` of `label` scaled to `size` by OpenCV's nearest: floor(x * in / out)."""
    shape = tf.shape(label)
    step = 1 / (tf.cast(size, tf.float64) / tf.cast(shape, tf.float64))

    def sources(axis):
        places = tf.cast(corner[axis] + tf.range(extent[axis]), tf.float64)
        return tf.minimum(tf.cast(places * step[axis], tf.int32), shape[axis] - 1)

    rows, columns = sources(0), sources(1)
    window = label[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # columns as rows of the turned window, which are copied whole: single bytes would be copied one by one
    turned = tf.gather(tf.transpose(window), columns - columns[0])
    return tf.gather(tf.transpose(turned), rows - rows[0])


def photometric_distortion(image: tf.Tensor, draws: tf.Tensor, turns: tuple[int, int] = (-18, 17)) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, each with probability one half; draws: float32 [9] in [0, 1).

    Of an image of one channel brightness and contrast alone. The hue turns by a number of steps of two degrees, from
    the first of `turns` to the last. Contrast comes before saturation or after hue, by the toss of a coin. Each step
    clips and truncates to uint8.
    """
    order, brightness, contrast, saturation, hue = tf.unstack(draws[:5] < 0.5)
    delta = -32 + 64 * draws[5]
    gain = 0.5 + draws[6]
    vividness = 0.5 + draws[7]
    first, last = turns
    turn = tf.cast(tf.floor((last - first + 1) * draws[8]), tf.int32) + first
    image = tf.cond(brightness, lambda: linear(image, 1.0, delta), lambda: image)
    image = tf.cond(contrast & order, lambda: linear(image, gain, 0.0), lambda: image)
    if image.shape[-1] == 3:
        image = tf.cond(saturation, lambda: change_saturation(image, vividness), lambda: image)
        image = tf.cond(hue, lambda: change_hue(image, turn), lambda: image)
    return tf.cond(contrast & ~order, lambda: linear(image, gain, 0.0), lambda: image)


def linear(image: tf.Tensor, gain, offset) -> tf.Tensor:
    """image * gain + offset, clipped to 0..255 and truncated to uint8."""
    return tf.cast(tf.clip_by_value(tf.cast(image, tf.float32) * gain + offset, 0, 255), tf.uint8)


def change_saturation(image: tf.Tensor, gain) -> tf.Tensor:
    """Multiplies the saturation of a uint8 RGB image."""
    h, s, v = rgb_to_hsv(image)
    return hsv_to_rgb(h, tf.floor(tf.clip_by_value(s * gain, 0, 255)), v)


def change_hue(image: tf.Tensor, turn) -> tf.Tensor:
    """Turns the hue of a uint8 RGB image by `turn` steps of two degrees, -180 <= turn < 180."""
    h, s, v = rgb_to_hsv(image)
    h += tf.cast(turn, tf.float32)
    return hsv_to_rgb(tf.where(h < 0, h + 180, tf.where(h >= 180, h - 180, h)), s, v)


def rgb_to_hsv(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """uint8 [h, w, 3] -> hue 0..179, saturation and value 0..255: OpenCV's 12-bit fixed point, equal to it.

    The whole numbers are held as float32 [h, w], which TensorFlow computes with about three times faster than int32.
    """
    r, g, b = (tf.cast(channel, tf.float32) for channel in tf.unstack(image, axis=-1))
    v = tf.maximum(tf.maximum(r, g), b)
    chroma = v - tf.minimum(tf.minimum(r, g), b)
    s = tf.floor((chroma * tf.round(255 * 4096 / tf.maximum(v, 1)) + 2048) / 4096)
    h = tf.where(v == r, g - b, tf.where(v == g, b - r + 2 * chroma, r - g + 4 * chroma))
    h = tf.floor((h * tf.round(30 * 4096 / tf.maximum(chroma, 1)) + 2048) / 4096)
    return tf.where(h < 0, h + 180, h), s, v


def hsv_to_rgb(h: tf.Tensor, s: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """float32 hue 0..179, saturation and value 0..255 -> uint8 [h, w, 3].

    OpenCV truncates here in its vector code, but rounds in the last columns that do not fill a vector: those differ by
    one level from this, the others in about one value of ten thousand.
    """
    sector = h * np.float32(1 / 30)  # 0..6: red, yellow, green, cyan, blue, magenta
    s, v = s * np.float32(1 / 255), v * np.float32(1 / 255)
    shares = tf.abs(sector - 3) - 1, 2 - tf.abs(sector - 2), 2 - tf.abs(sector - 4)
    channels = [v * (1 - s * (1 - tf.clip_by_value(share, 0, 1))) for share in shares]
    planes = [tf.cast(channel * 255, tf.uint8) for channel in channels]
    # numpy, for TensorFlow takes three times as long to lay channels beside each other
    pixels = tf.numpy_function(lambda *planes: np.stack(planes, axis=-1), planes, tf.uint8)
    return tf.ensure_shape(pixels, (*h.shape, 3))
