"""The effective receptive field: how much each pixel of an image counts for one pixel of a map, mean over images.

python -m experiments.receptive_field --workdir=RUN --images=DIR [--branch=NAME] [--output=DIR]
python -m experiments.receptive_field --config=configs/X.py [--config.init_from=FILE] --images=DIR [--branch=NAME]

The network is that of a run's best checkpoint, or a config's: new, or with the weights of --config.init_from. A branch
is a level of the encoder ('encoder/2'), a branch of a fusion site ('fpn/level1'; 'branches/ratio8' of VWFormer) or the
logits; a name that is not there is answered with those that are. --size is that of the network's input, by default
the crop that it is trained on: images are scaled to cover it and cut to it around their middle.

As VWFormer's authors draw it (tools/visualize_erf.py of github.com/yan-hao-tian/VW), at the middle of the map and over
many images: the gradient, at the image, of the sum over channels of the map's positive values in its middle pixel;
what is positive of it, summed over colours; log10(1 + that), divided by its largest value; the mean over images, of
which those without any gradient are left out. Every image counts alike in the plain shares too, from which the
numbers are.

Writes BRANCH.png (the picture), BRANCH.npz (heat and share, both [h, w]) and BRANCH.json: the share of the field within
squares around the middle, of so many pixels from middle to side, and the squares that hold 50, 90 and 99 percent.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

from se_jax import parallel
from se_jax.models.branches import branch_maps, branch_names

RADII = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
HELD = (0.5, 0.9, 0.99)


@dataclasses.dataclass(frozen=True)
class Field:
    """A receptive field.

    Attributes:
      heat: float64 [h, w], mean of the images' logarithmic maps, each of which has 1 as its largest value.
      share: float64 [h, w], mean of the images' plain maps, each of which sums to 1.
      middle: (row, column) in pixels of the image on which the map's middle pixel lies, maybe between pixels.
      images, skipped: how many were counted, and how many had no gradient or none that is finite.
    """

    heat: np.ndarray
    share: np.ndarray
    middle: tuple[float, float]
    images: int
    skipped: int

    def distances(self) -> np.ndarray:
        """How far each pixel lies from the middle, by rows or by columns, whichever is more: [h, w]."""
        rows, columns = (abs(np.arange(n) - at) for n, at in zip(self.heat.shape, self.middle, strict=True))
        return np.maximum(rows[:, None], columns)

    def within(self, radius: float) -> float:
        """The share of the field that lies at most that far from the middle."""
        return float(self.share[self.distances() <= radius].sum())

    def radius(self, share: float) -> float:
        """How far from the middle the smallest square reaches that holds that share of the field."""
        distances = self.distances().ravel()
        order = np.argsort(distances, kind="stable")
        held = np.cumsum(self.share.ravel()[order])
        return float(distances[order][np.searchsorted(held, share * (1 - 1e-9))])

    def numbers(self) -> dict:
        """What the .json file holds."""
        reached = min(max(self.heat.shape), max(RADII))
        return {
            "images": self.images,
            "skipped": self.skipped,
            "size": list(self.heat.shape),
            "middle": list(self.middle),
            "share_within": {str(radius): self.within(radius) for radius in RADII if radius <= reached},
            "radius_of_share": {str(share): self.radius(share) for share in HELD},
        }


def gradient_maps(model, branch: str, variables, images):
    """What each pixel counts for the middle pixel of a branch's map: uint8 images [b, h, w, 3] -> float32 [b, h, w]."""

    def middle(x):
        y = branch_maps(model, variables, x)[branch]
        return jnp.sum(jax.nn.relu(y[:, y.shape[1] // 2, y.shape[2] // 2].astype(jnp.float32)))

    return jax.nn.relu(jax.grad(middle)(model.normalize(images))).sum(-1)


def _sums(model, branch: str, variables, batch):
    """Sums over the images of a batch that count: of their heat, of their shares, and of them."""
    g = gradient_maps(model, branch, variables, batch["image"])
    total = g.sum((1, 2), keepdims=True)
    alive = batch["valid"][:, None, None] & (total > 0) & jnp.isfinite(total)
    heat = jnp.log10(g + 1)
    parts = (heat / heat.max((1, 2), keepdims=True), g / total)
    return [jnp.where(alive, part, 0).sum(0) for part in parts], alive.sum()


def measure(model, variables, images, branch: str = "logits", *, batch: int = 4) -> Field:
    """The receptive field of a branch, mean over `images`: uint8 [h, w, 3] RGB, all of one size, any iterable.

    One program is compiled, for batches of that many images; the last one is filled up.

    Raises:
      ValueError: the network has no such branch; there is no image, or none that moves the branch.
    """
    stream = iter(images)
    first = next(stream, None)
    if first is None:
        raise ValueError("no image to measure a receptive field on")
    size = first.shape[:2]
    names = branch_names(model, variables, size)
    if branch not in names:
        raise ValueError(f"branch is {branch!r}, which the network does not have; it has {', '.join(names)}")
    sums = parallel.jit(functools.partial(_sums, model, branch))
    variables, stream = jax.device_put(variables), itertools.chain([first], stream)
    heat, share, count, given = np.zeros(size), np.zeros(size), 0, 0
    while group := list(itertools.islice(stream, batch)):
        filled = np.stack([*group, *[first] * (batch - len(group))])
        (more_heat, more_share), alive = jax.device_get(
            sums(variables, {"image": filled, "valid": np.arange(batch) < len(group)})
        )
        heat, share, count, given = heat + more_heat, share + more_share, count + int(alive), given + len(group)
    if not count:
        raise ValueError(
            f"branch '{branch}' has no gradient at any of {given} images: its middle pixel is positive in none, or "
            "nothing moves it, as with VWFormer's windows in a new network"
        )
    maps = jax.eval_shape(functools.partial(branch_maps, model), variables, jnp.zeros((1, *size, 3)))[branch]
    middle = tuple((n // 2 + 0.5) * side / n - 0.5 for n, side in zip(maps.shape[1:3], size, strict=True))
    return Field(heat / count, share / count, middle, count, given - count)


def cover(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3], scaled so that it just covers `size`, and cut to it around its middle."""
    factor = max(side / length for side, length in zip(size, image.shape[:2], strict=True))
    height, width = (max(side, round(n * factor)) for side, n in zip(size, image.shape[:2], strict=True))
    scaled = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return scaled[top : top + size[0], left : left + size[1]]


def write(field: Field, branch: str, folder) -> pathlib.Path:
    """Writes picture and numbers; returns the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (branch.replace("/", "_") + ".png")
    np.savez_compressed(path.with_suffix(".npz"), heat=field.heat, share=field.share)
    path.with_suffix(".json").write_text(json.dumps({"branch": branch, **field.numbers()}, indent=1) + "\n")
    figure, axis = plt.subplots(figsize=(5, 5 * field.heat.shape[0] / field.heat.shape[1]), layout="constrained")
    shown = axis.imshow(field.heat, cmap="viridis", vmin=0)
    figure.colorbar(shown, ax=axis, shrink=0.8, label="log10(1 + gradient), relative to the largest")
    axis.set_title(f"{branch}, mean of {field.images} image{'s' * (field.images != 1)}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _network(config, workdir):
    """(config, Segmenter, variables) of --workdir or --config."""
    from se_jax import checkpoints
    from se_jax.importers import normalization_of, start_from
    from se_jax.models import build

    if (config is None) == (workdir is None):
        raise ValueError("give either --workdir, of a run, or --config, of a network that no run has trained")
    if workdir is not None:
        config, variables = checkpoints.load_for_inference(workdir)
        return config, build(config.model), variables
    model = build(config.model)
    init = functools.partial(model.init, jax.random.key(config.seed), jnp.zeros((1, *config.data.crop, 3)))
    variables = parallel.jit_once(init)()
    if not config.init_from:
        return config, model, variables
    normalization = config.model.normalization or normalization_of(config.init_from, model, config.data.crop)
    model = model.clone(normalization=normalization or model.normalization)
    return config, model, start_from(config.init_from, model, variables)


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    from se_jax.evaluation.images import find_images, read_image

    try:
        config, model, variables = _network(given.config, given.workdir)
        size = tuple(map(int, given.size or config.data.crop))
        if len(size) != 2:
            raise ValueError(f"--size is {','.join(given.size)}; give height and width, e.g. 512,512")
        files = find_images(given.images)[: given.count]
        images = (cover(read_image(path), size) for path in files)
        field = measure(model, variables, images, given.branch, batch=given.batch)
        path = write(field, given.branch, given.output)
    except (ValueError, OSError) as error:
        sys.exit(f"experiments.receptive_field: {error}")
    print(json.dumps(field.numbers(), indent=1))
    print(f"picture and numbers: {path} (.npz, .json)")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "File of an experiment, in place of --workdir.")
    flags.DEFINE_string("workdir", None, "Directory of a run.")
    flags.DEFINE_string("images", None, "An image, or a folder of images.")
    flags.DEFINE_string("branch", "logits", "Whose receptive field.")
    flags.DEFINE_integer("count", 100, "Images at most.", lower_bound=1)
    flags.DEFINE_integer("batch", 4, "Images at a time.", lower_bound=1)
    flags.DEFINE_list("size", None, "Height and width of the network's input, e.g. 512,512.")
    flags.DEFINE_string("output", "runs/receptive_field", "Folder for picture and numbers.")
    flags.mark_flag_as_required("images")
    app.run(main)
