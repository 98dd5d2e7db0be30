"""Predictions as files, in the form in which a benchmark takes them; annotations are not needed.

python -m se_jax.evaluate --workdir=DIR --submission=DIR [--config.data.val_split=test] [--config.eval.tta=True]

One PNG for every image of `config.data.val_split`, at the image's own size:
  cityscapes        FRAME.png (CITY_SEQUENCE_FRAME), 8-bit ids of labelIds, as the server wants them
  ade20k            NAME.png, 8-bit ids 1..150
  voc2012           results/VOC2012/Segmentation/comp6_SPLIT_cls/NAME.png, palette files of ids 0..20
  pascal_context*   NAME.png, 8-bit ids as in the annotations; it has no server
  folder            NAME.png, palette files of ids as in the annotations (of several ids of a class the lowest)
The directory appears when it is complete. Several processes share the images; all must see the directory.
"""

import contextlib
import dataclasses
import os
import pathlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from se_jax import parallel
from se_jax.config.check import check
from se_jax.evaluation import inference
from se_jax.evaluation.evaluator import batches
from se_jax.evaluation.images import save_ids
from se_jax.evaluation.protocol import protocol


@dataclasses.dataclass(frozen=True)
class Form:
    """What the files of a submission look like.

    ids: uint8 [256], class id -> id in the file. colours: uint8 [n, 3], palette of the file, None for a grey one.
    folder: where the files lie, with {split} in it. ending: suffix stripped from file names.
    """

    ids: np.ndarray
    colours: np.ndarray | None
    folder: str = ""
    ending: str = ""


def form(name: str, labels) -> Form:
    """The Form for the data set of that name (config.data.name), whose classes are those of `labels`."""
    from data_pipelines import cityscapes

    ids = (cityscapes.LABELS if name == "cityscapes" else labels).file_ids()  # annotations may be labelTrainIds
    raw = np.arange(256, dtype=np.uint8)
    raw[: len(ids)] = ids
    if name in ("voc2012", "folder"):
        colours = np.zeros((int(ids.max()) + 1, 3), np.uint8)  # by the ids in the file
        colours[ids] = labels.palette
        return Form(raw, colours, "results/VOC2012/Segmentation/comp6_{split}_cls" if name == "voc2012" else "")
    return Form(raw, None, ending="_leftImg8bit" if name == "cityscapes" else "")


def run(config, variables, output) -> None:
    """Write the files of all images of config.data.val_split, predicted as config.eval says, to the directory `output`.

    Args:
      config: a run's config. variables: of its network, on the host. output: a directory that does not exist yet.

    Raises:
      ValueError: an option cannot be, the data set has other classes than the network, or two images the same name.
      FileExistsError: `output`, or what a stopped run left of it, exists. OSError: it cannot be written.
    """
    import data_pipelines
    from se_jax.models import build

    check(config)
    source, labels = data_pipelines.open_images(config.data)
    model, mesh = build(config.model), parallel.make_mesh(config)
    if model.num_classes != labels.num_classes:
        raise ValueError(f"the network has {model.num_classes} classes, but the data set has {labels.num_classes}")
    split = config.data.val_split or getattr(data_pipelines.OFFICIAL.get(config.data.name), "val_split", "val")
    kind = form(config.data.name, labels)
    names = [_stem(source.image_name(i), kind.ending) for i in range(len(source))]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{source.name} has two images of the name {twice}: their predictions would be one file")
    programs = inference.build(model, protocol(config.eval), parallel.make_mesh(devices=jax.local_devices()))
    variables = jax.device_put(variables, parallel.replicated(programs.mesh))
    written = 0
    with _complete(output) as folder:
        place = folder / kind.folder.format(split=split)
        place.mkdir(parents=True, exist_ok=True)
        for batch in batches(source, labels, config.eval, mesh, config.data.on_error):
            masks = kind.ids[programs.class_ids(variables, batch["image"])]
            for index, mask in zip(batch["index"], masks, strict=True):
                if index >= 0:
                    save_ids(place / f"{names[index]}.png", mask, kind.colours)
                    written += 1
    left_out = f", {len(source.skipped)} images could not be read and are missing" if source.skipped else ""
    if jax.process_index() == 0:
        share = f" ({written} by this process)" if jax.process_count() > 1 else ""
        print(f"{len(names)} images{share} of {source.name} predicted in {output}{left_out}")


def _stem(path: str, ending: str) -> str:
    return pathlib.PurePath(path).stem.removesuffix(ending)


@contextlib.contextmanager
def _complete(output):
    """The directory in which all processes write, renamed to `output` by the first one when all are done."""
    output = pathlib.Path(os.path.abspath(output))
    folder = output.with_name(f"{output.name}.unfinished")
    lead = jax.process_index() == 0
    if lead:
        if output.exists():
            raise FileExistsError(f"--submission={output} exists; give another directory, or remove it")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise FileExistsError(
                f"{folder} exists: a run that was stopped left it, or one is writing it; remove it first"
            ) from None
        except OSError as error:
            raise OSError(f"--submission={output} cannot be written: {error.strerror}") from None
    _wait("made")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there; --submission must lie where every process sees it")
    yield folder
    _wait("written")
    if lead:
        folder.rename(output)


def _wait(name: str) -> None:
    """Until all processes are here."""
    multihost_utils.sync_global_devices(f"submission {name}")
