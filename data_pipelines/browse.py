"""Writes a page of augmented training pictures with their labels laid over them, to look at before training.

python -m data_pipelines.browse --config=configs/camvid_aspp.py --output=page.html [--count=24] [--config.data.a=value]

The pictures are those that training with this config sees first. The page is one file that loads nothing.
"""

import base64
import io
import os
import re
import sys

import jinja2
import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

# Entries of the overlay's palette beyond those of the classes.
_PADDING, _STRIPE, _CLEAR = 253, 254, 255
_OPTIONS = ("crop", "scale", "ratio_range", "cat_max_ratio", "flip", "photometric")  # those the page names


def page(config, count: int) -> str:
    """The page of the first `count` training pictures of a run with `config`; DataError as data_pipelines.build."""
    import data_pipelines  # only now: it takes seconds, and a wrong flag should not
    from data_pipelines.pipeline import training_order

    seed = config.get("seed", 0)
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed!r}; expected a whole number of 0 to {2**32 - 1:,}")
    data = data_pipelines.build(config.get("data"))
    order = training_order(data, seed=seed, first=0, last=count)
    figures, shares = [], np.zeros(data.labels.num_classes)
    for batch in data_pipelines.train_batches(data, config.data, seed=seed, start_step=0):
        for image, label, size in zip(batch["image"], batch["label"], batch["size"], strict=True):
            if len(figures) < count:
                found = np.bincount(label.ravel(), minlength=256)[: len(shares)]
                shares += found / label.size / count
                name = data.train.image_name(order[len(figures)])
                figures.append(_figure(name, image, label, size, found, data.labels))
        if len(figures) == count:
            break
    labels = data.labels
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("data_pipelines"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("browse.html.jinja").render(
        title=data.train.name,
        options={key: config.data[key] for key in _OPTIONS},
        present=[(labels.names[k], labels.palette[k], shares[k]) for k in _present(shares)],
        absent=[name for name, share in zip(labels.names, shares, strict=True) if not share],
        notes=[*data.warnings, *(f"skipped: {message}" for message in data.train.skipped)],
        figures=figures,
    )


def overlay(label: np.ndarray, size, palette: np.ndarray) -> Image.Image:
    """Palette picture [H, W] of train ids [H, W]: ignored pixels are striped, what lies outside `size` (h, w) grey."""
    ids = label.copy()
    rows, columns = np.indices(label.shape)
    ignored = label >= len(palette)
    ids[ignored] = np.where((rows + columns) // 3 % 3 == 0, _STRIPE, _CLEAR)[ignored]
    ids[size[0] :], ids[:, size[1] :] = _PADDING, _PADDING
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    colours[_PADDING], colours[_STRIPE] = 128, 255
    picture = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    picture.putpalette(colours.tobytes())
    return picture


def _present(amounts: np.ndarray) -> list[int]:
    """Classes of which there is any, those with most first."""
    return [k for k in np.argsort(-amounts, kind="stable") if amounts[k]]


def _figure(name: str, image: np.ndarray, label: np.ndarray, size, found: np.ndarray, labels) -> dict:
    visible = image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]
    opacity = bytes(255 * (k != _CLEAR) for k in range(256))
    return {
        "name": os.path.basename(name),
        "size": size,
        "classes": [labels.names[k] for k in _present(found)],
        "image": _data_url(Image.fromarray(visible), "JPEG", quality=88),
        "label": _data_url(overlay(label, size, labels.palette), "PNG", transparency=opacity, optimize=True),
    }


def _data_url(picture: Image.Image, kind: str, **options) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    try:
        text = page(given.config, given.count)
        with open(given.output, "w", encoding="utf-8") as file:
            file.write(text)
    except (ValueError, OSError) as error:
        sys.exit(f"data_pipelines.browse: {error}")
    print(f"{given.output}: {given.count} pictures, {len(text) / 1e6:.1f} MB")


def parse(argv):
    """absl's parser; an option that the config does not have ends with a line instead of a traceback."""
    stored = os.path.join(os.path.dirname(__file__), "stored.py")
    given = [re.sub(r"^(--?config=)?(?=[^:=]*\.json$)", rf"\g<0>{stored}:", argument) for argument in argv]
    try:
        return flags.FLAGS(given)
    except flags.Error as error:
        sys.exit(f"data_pipelines.browse: {' '.join(str(error).split())}")
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.args[0] if isinstance(reason, KeyError) else reason  # of which AttributeErrors are made here
        reason = " ".join(str(reason).split())
        sys.exit(f"data_pipelines.browse: the config has no such option or not of that kind: {reason}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "File of the experiment, e.g. configs/camvid_aspp.py.")
    flags.DEFINE_string("output", None, "The HTML file to write.")
    flags.DEFINE_integer("count", 24, "Number of pictures.", lower_bound=1)
    flags.mark_flags_as_required(["config", "output"])
    app.run(main, flags_parser=parse)
