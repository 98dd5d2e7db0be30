"""Predictions as files, for people: masks, overlays, probabilities, masks of single classes, a summary of areas.

The files of a benchmark are those of `se_jax.evaluation.submission`.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from se_jax import run
from se_jax.evaluation import many
from se_jax.evaluation.images import find_images, read_image, save_ids, size_of
from se_jax.evaluation.predictor import Model
from se_jax.progress import Progress

KINDS = ("npz", "png")  # of probabilities
AREAS = "areas.json"


def predict_files(
    model: Model,
    source,
    output,
    *,
    exact: bool = False,
    batch_size: int | None = None,
    probabilities: str = "",
    classes: Sequence[str] = (),
    **reading,
) -> tuple[int, list[str]]:
    """Writes predictions of a file, or of every image below a folder, to the folder `output`.

    For every image NAME_mask.png (a palette file of class ids) and NAME_overlay.png; for all of them areas.json, with
    the pixels and the share of each class, and the mean probability of the pixels' classes. Sub-folders are kept. What
    cannot be read, or whose prediction does not fit into memory, is reported and left out; the others are done.

    Args:
      exact: as of `Model.predict`. batch_size: images of one size that go through the network together; by default the
        run's eval.batch_size.
      probabilities: 'npz' for NAME_probabilities.npz with 'probabilities' float16 [h, w, K] and 'classes'; 'png' for
        NAME_probability_CLASS.png of every class, 16 bits grey, 65535 being 1; '' for none.
      classes: names, of which NAME_CLASS.png is written, 255 where that class is and 0 elsewhere; and the only ones of
        which 'png' writes probabilities.
      reading: max_pixels and image_bits of `read_image`, in the place of those of the run's config.data.

    Returns:
      (number of images done, list of error messages).

    Raises:
      FileNotFoundError: no image at `source`. OSError: `output` cannot be written. ValueError: no such kind or class.
    """
    if probabilities not in ("", *KINDS):
        raise ValueError(f"probabilities is {probabilities!r}; expected one of {', '.join(KINDS)}")
    if unknown := [name for name in classes if name not in model.names]:
        raise ValueError(f"there is no class {', '.join(unknown)}; the network's are {', '.join(model.names)}")
    source, output = pathlib.Path(source), pathlib.Path(output)
    files = [path for path in find_images(source) if output not in path.parents]  # not what an earlier call wrote
    run.make(output, "output")
    reading = {name: model.config.data[name] for name in ("max_pixels", "image_bits", "channels")} | reading
    targets = _targets(files, source, output)
    errors, areas = {}, {}
    sizes = [size_of(path) for path in files]
    goals = model.goals([size for size in sizes if size is not None], exact)
    batches = many.plan(sizes, goals, batch_size or model.config.eval.batch_size)
    progress, before = Progress("predicted", len(files)), model.compilations
    what = "probabilities" if probabilities else "surest"
    results = many.predicted(
        batches,
        lambda i: read_image(files[i], **reading),
        lambda images, goal: model.call(what, images, goal),
        model.network.channels,
    )
    for done, (index, image, result) in enumerate(results, 1):
        if image is None:
            small = f"{files[index]} or its prediction does not fit into memory; cut the image into tiles"
            errors[index] = small if isinstance(result, MemoryError) else str(result)
        else:
            areas[str(targets[index].relative_to(output))] = _write(
                model, image, result, targets[index], probabilities, classes
            )
        progress(done, f", compiled for {model.compilations - before} sizes")
    if areas:
        run.write_json(output / AREAS, {"classes": list(model.names), "images": dict(sorted(areas.items()))})
    return len(areas), [errors[index] for index in sorted(errors)]


def _targets(files: list[pathlib.Path], source: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """Where the files of each image go, less their endings; sub-folders are made."""
    targets, names = [], set()
    for path in files:
        folder = output / (path.parent.relative_to(source) if source.is_dir() else "")
        folder.mkdir(parents=True, exist_ok=True)
        targets.append(folder / (path.stem if path.with_suffix("") not in names else path.name))  # a.jpg beside a.png
        names.add(path.with_suffix(""))
    return targets


def _write(model: Model, image, result, target: pathlib.Path, probabilities: str, classes) -> dict[str, Any]:
    """Writes the files of an image; returns its entry in areas.json."""

    def beside(ending: str) -> pathlib.Path:
        return target.with_name(f"{target.name}_{ending}")

    if probabilities:
        mask, confidence = result.argmax(axis=-1).astype(np.uint8), result.max(axis=-1)
    else:
        mask, confidence = result
    if probabilities == "npz":
        arrays = {"probabilities": result.astype(np.float16), "classes": np.array(model.names)}
        run.write_arrays(beside("probabilities.npz"), arrays)
    elif probabilities == "png":
        for name in classes or model.names:
            values = (result[..., model.names.index(name)] * 65535).round().astype(np.uint16)
            Image.fromarray(values).save(beside(f"probability_{_file_name(name)}.png"))
    for name in classes:
        save_ids(beside(f"{_file_name(name)}.png"), np.uint8(255) * (mask == model.names.index(name)), None)
    model.save_mask(mask, beside("mask.png"))
    Image.fromarray(model.overlay(image, mask)).save(beside("overlay.png"))
    pixels = np.bincount(mask.ravel(), minlength=len(model.names))
    found = {name: int(count) for name, count in zip(model.names, pixels, strict=False) if count}
    return {
        "size": list(mask.shape),
        "pixels": found,
        "share": {name: round(count / mask.size, 6) for name, count in found.items()},
        "confidence": round(float(confidence.mean()), 4),
    }


def _file_name(name: str) -> str:
    """A class's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
