"""Parts of another training crop pasted onto this one, with their labels: CutMix and ClassMix.

Sources: Yun et al., ICCV 2019 (arXiv 1905.04899; a rectangle), as French et al., BMVC 2020 (arXiv 1906.01916) use it
for segmentation; Olsson et al., WACV 2021 (arXiv 2007.07936; half of the classes of the other crop). There the labels
pasted are predictions; here they are the labels. Both are off by default.
"""

import tensorflow as tf

from data_pipelines.labels import IGNORE

NUMBERS = 5  # random ones that `mix` takes, beside one for every id


def mix(element: dict, other: dict, draws: tf.Tensor, cutmix: float) -> dict[str, tf.Tensor]:
    """A crop with a part of another: `element` and `other` are as of `transforms.augment`, with status and message.

    draws: float32 [NUMBERS + 255] in [0, 1); below `cutmix` the first asks for a rectangle, else for classes. Nothing
    is pasted outside of either crop's content. A file that cannot be read counts, whichever of the two it is.
    """
    size = tf.minimum(element["size"], other["size"])
    shape = tf.shape(element["label"])
    inside = (tf.range(shape[0]) < size[0])[:, None] & (tf.range(shape[1]) < size[1])
    part = tf.cond(
        draws[0] < cutmix,
        lambda: rectangle(shape, size, draws[1:5]),
        lambda: half_of_classes(other["label"], draws[5:]),
    )
    part &= inside
    worse = other["status"] > element["status"]
    return element | {
        "image": tf.where(part[..., None], other["image"], element["image"]),
        "label": tf.where(part, other["label"], element["label"]),
        "status": tf.where(worse, other["status"], element["status"]),
        "message": tf.where(worse, other["message"], element["message"]),
    }


def rectangle(shape: tf.Tensor, size: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """bool [h, w]: a rectangle of `size`'s proportions, whose share of it is uniform in 0 to 1, anywhere inside."""
    sides = tf.cast(tf.cast(size, tf.float32) * tf.sqrt(draws[0]), tf.int32)
    corner = tf.cast(tf.cast(size - sides + 1, tf.float32) * draws[1:3], tf.int32)
    rows, columns = (
        (tf.range(shape[axis]) >= corner[axis]) & (tf.range(shape[axis]) < corner[axis] + sides[axis])
        for axis in (0, 1)
    )
    return rows[:, None] & columns


def half_of_classes(label: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """bool [h, w]: where the label is one of half of its classes, rounded down, which chance picks; never ignored."""
    counts = tf.math.bincount(tf.cast(label, tf.int32), minlength=256, maxlength=256)[:IGNORE]
    there = counts > 0
    order = tf.argsort(tf.where(there, draws[:IGNORE], 2.0), stable=True)
    chosen = tf.math.count_nonzero(there, dtype=tf.int32) // 2
    picked = tf.tensor_scatter_nd_update(tf.zeros([256], tf.bool), order[:, None], tf.range(IGNORE) < chosen)
    return tf.gather(picked, tf.cast(label, tf.int32))
