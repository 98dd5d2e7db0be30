"""Prediction with a trained network, of arrays and of files.

se_jax.load(workdir).predict(image)     # uint8 [h, w, 3] RGB -> uint8 [h, w] class ids
"""

import pathlib
import sys

import jax
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from se_jax import checkpoints, run
from se_jax.config.check import check
from se_jax.equalizer.fold import can_fold, fold, fold_weights
from se_jax.evaluation import inference
from se_jax.evaluation.protocol import protocol
from se_jax.models import build

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
OVERLAY = 0.5  # the mask's share of an overlay


class Predictor:
    """A trained network with its class names and colours.

    Attributes:
      config: the run's config; names: tuple of K class names; palette: uint8 [K, 3] RGB.
    """

    def __init__(self, config, variables, names, palette):
        check(config)
        self.config, self.names = config, tuple(names)
        self.palette = np.asarray(palette, np.uint8)
        model = build(config.model)
        if model.decoder.equalizer.mode == "explicit" and can_fold(variables):
            model, variables = model.with_equalizer(mode="folded"), fold(variables)  # the same function, at no cost
        self._variables = jax.device_put(fold_weights(variables), jax.local_devices()[0])
        self._programs = inference.build(model, protocol(config.eval))

    def predict(self, image: np.ndarray) -> np.ndarray:
        """uint8 image [h, w, 3] (RGB) -> uint8 class ids [h, w], as the evaluation computes them.

        The first image of which the network sees a new size compiles (seconds), others do not: see
        se_jax.evaluation.inference.

        Raises:
          ValueError: `image` has another shape or dtype.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"predict takes uint8 [height, width, 3] (RGB); got {image.dtype} {list(image.shape)}")
        return self._programs.class_ids(self._variables, image[None])[0]

    def color(self, mask: np.ndarray) -> np.ndarray:
        """Class ids [h, w] -> their colours, uint8 [h, w, 3]; black for ids without a class (255)."""
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self.palette)] = self.palette
        return colors[mask]

    def overlay(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Image [h, w, 3] with the mask's colours laid over it, uint8."""
        return (image * (1 - OVERLAY) + self.color(mask) * OVERLAY).round().astype(np.uint8)

    def save_mask(self, mask: np.ndarray, path) -> None:
        """Write class ids as a palette PNG: its pixels are the ids, its colours the data set's."""
        save_ids(path, mask, self.palette)


def load(workdir, checkpoint: str = "best") -> Predictor:
    """The network trained in `workdir`, at its "best" or "last" checkpoint (averaged parameters where there are any).

    Raises:
      FileNotFoundError: no such directory, or no finished run or checkpoint in it.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{workdir} is no directory; give the --workdir of a training run")
    config, variables = checkpoints.load_for_inference(workdir, checkpoint)
    path = workdir / run.LABELS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; a training run writes it at its start: is this a run's workdir?")
    labels = run.read_json(path)
    return Predictor(config, variables, labels["names"], labels["palette"])


def save_ids(path, ids: np.ndarray, palette: np.ndarray | None) -> None:
    """Write uint8 ids [h, w] as an 8-bit PNG: a palette file with colours uint8 [K, 3], or without them a grey one."""
    picture = Image.fromarray(ids)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(path)


def read_image(path, *, max_pixels: int | None = None, image_bits: int | None = None) -> np.ndarray:
    """An image file as uint8 [h, w, 3] RGB, upright as EXIF says; read as training reads its images.

    PNG, JPEG, BMP, TIFF or WebP by its content. max_pixels, image_bits: as config.data's, whose defaults they have.
    Where tensorflow is not installed Pillow alone reads the file: with 8 bits a channel only, and without a look at the
    checksums of a PNG's pixels.

    Raises:
      ValueError: the file is no such image, no regular file, truncated or damaged, larger than max_pixels, or has more
        than 8 bits a channel while image_bits says 8; names it.
    """
    try:
        from data_pipelines import pictures  # only here: it brings tensorflow
    except ModuleNotFoundError:
        return _read_with_pillow(pathlib.Path(path), max_pixels or Image.MAX_IMAGE_PIXELS)
    options = {"max_pixels": max_pixels, "image_bits": image_bits}
    given = {name: value for name, value in options.items() if value is not None}
    reading = pictures.Reading(formats=pictures.PREDICTED, **given)
    return pictures.decode_image(pictures.read_bytes(str(path)), str(path), reading)


def _read_with_pillow(path: pathlib.Path, max_pixels: int | None) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} is no regular file")
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP")) as picture:
            if max_pixels and picture.width * picture.height > max_pixels:
                raise ValueError(
                    f"{path} is too large ({picture.width}x{picture.height}); expected {max_pixels:,} pixels"
                )
            with path.open("rb") as file:
                deep = picture.format == "PNG" and file.read(25)[24] > 8  # Pillow has reduced what it does not keep
            if deep or picture.mode.startswith(("I", "F")):
                raise ValueError(f"{path} has more than 8 bits a channel; save it with 8, or install the extra `data`")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no PNG, JPEG, BMP, TIFF or WebP image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's words for damaged files
        raise ValueError(f"{path} is a truncated or damaged image, or too large: {error}") from None


def find_images(path) -> list[pathlib.Path]:
    """The file itself, or everything below a folder that is named like an image, sorted.

    Raises:
      FileNotFoundError: nothing is there, or no image is.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"--input {path}: no such file or folder")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
    if not found:
        raise FileNotFoundError(f"--input {path}: no image below this folder (looked for {', '.join(SUFFIXES)})")
    return found


def predict_files(predictor: Predictor, source, output, **reading) -> tuple[int, list[str]]:
    """Write `NAME_mask.png` and `NAME_overlay.png` to `output` for a file, or for every image below a folder.

    Sub-folders are kept. A file that cannot be read, or whose prediction does not fit into memory, is reported and left
    out; the others are done.

    Args:
      reading: max_pixels and image_bits of `read_image`, in the place of those of the run's config.data.

    Returns:
      (number of images done, list of error messages).

    Raises:
      FileNotFoundError: no image at `source`. OSError: `output` cannot be written.
    """
    source, output = pathlib.Path(source), pathlib.Path(output)
    files = [path for path in find_images(source) if output not in path.parents]  # not what an earlier call wrote
    run.make(output, "output")
    reading = {name: predictor.config.data[name] for name in ("max_pixels", "image_bits")} | reading
    done, errors, names = 0, [], set()
    for path in files:
        try:
            image = read_image(path, **reading)
            mask = predictor.predict(image)
        except ValueError as error:
            errors.append(str(error))
            continue
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            errors.append(f"{path} or its prediction does not fit into memory; cut the image into tiles")
            continue
        target = output / (path.parent.relative_to(source) if source.is_dir() else "")
        target.mkdir(parents=True, exist_ok=True)
        name = path.stem if path.with_suffix("") not in names else path.name  # a.jpg beside a.png
        names.add(path.with_suffix(""))
        predictor.save_mask(mask, target / f"{name}_mask.png")
        Image.fromarray(predictor.overlay(image, mask)).save(target / f"{name}_overlay.png")
        done += 1
        print(f"\r{done}/{len(files)} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return done, errors
