"""Lets a small network learn a handful of images by heart: a check that images, labels, loss and metric fit together.

python -m experiments.overfit --dataset=cityscapes --source=DIR [--split=train] [--images=10] [--size=128] [--steps=300]

Takes the first images of a split of a published data set, shrinks them, and trains and evaluates on the same ones.
Whatever the images, the mean IoU over the classes that occur must come close to 1; where it does not, labels and images
do not belong together, or something is broken between the files and the metric. It says nothing about other images.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # tensorflow only feeds images here; its greetings would be noise

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

ZOOM = 4  # the network sees the shrunk images this much larger: its logits then have a pixel for each of the label


def shrink(dataset: str, source: str, split: str | None, images: int, size: int, target: pathlib.Path):
    """Writes the first `images` of a split to `target` in the layout of 'folder', all in one shape.

    That is the first one's, its longer side `size`: padding, which evaluation has not, would come between a network and
    what it learned.

    Returns:
      (how many were written, (height, width), pixels of every class).

    Raises:
      data_pipelines.DataError: the data set cannot be read.
    """
    import data_pipelines
    from se_jax.config import options

    options = options.get_config().data
    options.update(name=dataset, dir=source, train_split=split)
    data = data_pipelines.build(options)
    for part in ("images", "annotations"):
        (target / part / "train").mkdir(parents=True)
    names, palette = list(data.labels.names), np.asarray(data.labels.palette).tolist()
    (target / "classes.json").write_text(json.dumps({"classes": names, "palette": palette}))
    count, pixels = min(images, len(data.train)), np.zeros(256, int)
    for index in range(count):
        image, label = map(Image.fromarray, data_pipelines.read_example(data.train, data.labels, index))
        if index == 0:
            shape = [max(round(side * size / max(image.size)), 1) for side in image.size]
        image.resize(shape, Image.Resampling.BOX).save(target / "images" / "train" / f"{index}.png")
        label = label.resize(shape, Image.Resampling.NEAREST)
        label.save(target / "annotations" / "train" / f"{index}.png")
        pixels += np.bincount(np.asarray(label).ravel(), minlength=256)
    return count, (shape[1], shape[0]), pixels[: len(names)]


def get_config(directory: pathlib.Path, batch_size: int, crop: tuple[int, int], pixels, steps: int):
    """The config of a run on that directory: ResNet-18 of half width under SegFormer's head, nothing at random.

    pixels: of every class; the loss weighs rare ones more, which otherwise come last.
    """
    from se_jax.config import options

    config = options.get_config()
    config.num_steps = steps
    config.optimizer.update(name="adamw", learning_rate=5e-3, min_learning_rate=0.0, power=1.0, warmup_steps=20)
    config.optimizer.weight_decay = 0.0
    scale = (ZOOM * max(crop), ZOOM * max(crop))
    config.data.update(name="folder", dir=str(directory), train_split="train", val_split="train", cache=True)
    config.data.update(batch_size=batch_size, scale=scale, crop=tuple(ZOOM * side for side in crop))
    config.data.update(ratio_range=(1.0, 1.0), cat_max_ratio=1.0, flip=0.0, photometric=False)
    config.eval.update(every_steps=steps, scale=scale)
    config.checkpoint.update(every_steps=steps, keep=1)
    config.log.every_steps = max(steps // 10, 1)
    config.loss.class_weights = tuple(((np.maximum(pixels, 1) / pixels.max()) ** -0.5).tolist())
    config.model.num_classes, config.model.auxiliary = len(pixels), None
    config.model.encoder.update(depth=18, width=32, output_stride=32)
    config.model.decoder = ConfigDict(options.decoder("segformer", channels=64, dropout=0.0))
    return config


def mean_of_present(result: dict) -> tuple[float, int]:
    """(mean IoU over the classes that the labels hold, how many those are) of what metrics.json holds."""
    present = [result["iou"][name] for name, accuracy in result["acc"].items() if accuracy is not None]
    return float(np.mean(present)), len(present)


def main(arguments=None) -> float:
    parser = argparse.ArgumentParser(prog="python -m experiments.overfit", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="e.g. ade20k, voc2012 or cityscapes, as config.data.name")
    parser.add_argument("--source", required=True, help="directory of the data set, as config.data.dir")
    parser.add_argument("--split", help="by default the training split")
    parser.add_argument("--images", type=int, default=10, help="how many of them")
    parser.add_argument("--size", type=int, default=128, help="longer side to which they are shrunk")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/overfit"))
    flags = parser.parse_args(arguments)
    if min(flags.images, flags.size, flags.steps) < 1:
        parser.error("--images, --size and --steps must be at least 1")

    import jax

    from se_jax import cli
    from se_jax.training.loop import train_and_evaluate

    workdir = flags.workdir / flags.dataset
    shutil.rmtree(workdir, ignore_errors=True)
    try:
        count, size, pixels = shrink(
            flags.dataset, flags.source, flags.split, flags.images, flags.size, workdir / "data"
        )
        batch_size = -(-count // jax.device_count()) * jax.device_count()  # every device needs its share
        config = get_config(workdir / "data", batch_size, size, pixels, flags.steps)
        with cli.ending("experiments.overfit"):
            result = train_and_evaluate(config, workdir / "run")
    except (ValueError, OSError) as error:
        sys.exit(f"experiments.overfit: {error}")
    mean, present = mean_of_present(result)
    print(f"{count} images of {flags.dataset}: mIoU {100 * mean:.2f} over the {present} classes that occur")
    return mean


if __name__ == "__main__":
    main()
