"""Further augmentation of a crop, each off by default: rotation, vertical flip, grey, blur, cutout.

After mmsegmentation 1.2.2's RandomRotate and RandomCutOut; the others are of usual kinds, with numbers of ours. Like
`transforms`, stateless tf ops: the result depends on the picture and the seed alone.
"""

import dataclasses
import math

import tensorflow as tf

from data_pipelines.labels import IGNORE

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's and OpenCV's grey
REACH = 4  # of the blur, in pixels
SIGMA = (0.5, 2.0)  # of the blur, in pixels


@dataclasses.dataclass(frozen=True)
class Effects:
    """What is done to crops; se_jax/config/options.py says what the numbers mean.

    rotate: largest angle in degrees. flip_vertical, grey, blur, cutout: probabilities. cutout_size: largest side of the
    hole, a share of the crop's.
    """

    rotate: float = 0.0
    flip_vertical: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    cutout: float = 0.0
    cutout_size: float = 0.5

    @property
    def any(self) -> bool:
        """Whether anything is done at all."""
        return max(self.rotate, self.flip_vertical, self.grey, self.blur, self.cutout) > 0


def apply(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, effects: Effects) -> tuple[tf.Tensor, tf.Tensor]:
    """The effects that chance picks, one after the other, on uint8 [h, w, 3] and its label uint8 [h, w]."""
    draws = tf.unstack(tf.random.stateless_uniform([10], seed, alg="philox"))
    if effects.rotate:
        angle = (2 * draws[0] - 1) * effects.rotate
        image, label = rotate(image, label, angle)
    if effects.flip_vertical:
        flipped = draws[1] < effects.flip_vertical
        image = tf.cond(flipped, lambda: tf.reverse(image, [0]), lambda: image)
        label = tf.cond(flipped, lambda: tf.reverse(label, [0]), lambda: label)
    if effects.grey:
        image = tf.cond(draws[2] < effects.grey, lambda: grey(image), lambda: image)
    if effects.blur:
        sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * draws[4]
        image = tf.cond(draws[3] < effects.blur, lambda: blur(image, sigma), lambda: image)
    if effects.cutout:
        holed = cutout(image, tf.stack(draws[6:10]), effects.cutout_size)
        image = tf.where(draws[5] < effects.cutout, holed, image)
    return image, label


def rotate(image: tf.Tensor, label: tf.Tensor, degrees: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both turned about their centre, counter-clockwise as they are seen, in a frame of the same size.

    The image is read bilinearly, with 0 outside; the label by the nearest pixel, with 255 (ignored) outside.
    """
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = tf.unstack(tf.cast(tf.shape(label), tf.float32))
    x, y = (width - 1) / 2, (height - 1) / 2
    # output (column, row) -> the input's, as ImageProjectiveTransformV3 takes it
    zero = tf.zeros(())
    transform = tf.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zero, zero])[None]

    def turned(pixels, interpolation, fill):
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=pixels[None],
            transforms=transform,
            output_shape=tf.shape(label),
            fill_value=fill,
            interpolation=interpolation,
            fill_mode="CONSTANT",
        )[0]

    rotated = turned(tf.cast(image, tf.float32), "BILINEAR", 0.0)
    ids = turned(tf.expand_dims(label, -1), "NEAREST", float(IGNORE))[..., 0]
    return tf.cast(tf.clip_by_value(rotated + 0.5, 0, 255), tf.uint8), ids


def grey(image: tf.Tensor) -> tf.Tensor:
    """The brightness in all three channels."""
    value = tf.reduce_sum(tf.cast(image, tf.float32) * tf.constant(LUMA), axis=-1, keepdims=True)
    return tf.repeat(tf.cast(value + 0.5, tf.uint8), 3, axis=-1)


def blur(image: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """A Gaussian of standard deviation `sigma` pixels, cut off at REACH; the border is repeated outside."""
    places = tf.range(-REACH, REACH + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-0.5 * tf.square(places / sigma))
    x = tf.cast(image, tf.float32)
    for axis in (0, 1):
        length = tf.shape(x)[axis]
        offsets = range(-REACH, REACH + 1)
        shifted = (tf.gather(x, tf.clip_by_value(tf.range(length) + k, 0, length - 1), axis=axis) for k in offsets)
        x = tf.add_n([weight * part for weight, part in zip(tf.unstack(weights), shifted, strict=True)])
    return tf.cast(tf.clip_by_value(x + 0.5, 0, 255), tf.uint8)


def cutout(image: tf.Tensor, draws: tf.Tensor, largest: float) -> tf.Tensor:
    """A black rectangle inside, of sides up to `largest` of the image's; the label stays, as in the source."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    sides = tf.floor(size * largest * draws[:2])
    corner = tf.floor((size - sides + 1) * draws[2:])
    rows, columns = (tf.cast(tf.range(tf.shape(image)[axis]), tf.float32) for axis in (0, 1))
    inside = [(at >= corner[axis]) & (at < corner[axis] + sides[axis]) for axis, at in ((0, rows), (1, columns))]
    hole = inside[0][:, None] & inside[1]
    return tf.where(hole[..., None], tf.zeros_like(image), image)
