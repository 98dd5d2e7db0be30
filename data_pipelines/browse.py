"""Writes a page of augmented training pictures with their labels laid over them, to look at before training.

python -m data_pipelines.browse --config=configs/camvid_aspp.py --output=page.html [--count=24] [--config.data.a=value]

The pictures are those that training with this config sees first. The page is one file that loads nothing.
"""

import base64
import html
import io
import os
import sys

import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

# Entries of the overlay's palette beyond those of the classes.
_PADDING, _STRIPE, _CLEAR = 253, 254, 255


def page(config, count: int) -> str:
    """The page of the first `count` training pictures of a run with `config`; DataError as data_pipelines.build."""
    import data_pipelines  # only now: it takes seconds, and a wrong flag should not
    from data_pipelines.pipeline import training_order

    data = data_pipelines.build(config.data)
    order = training_order(len(data.train), seed=config.seed, first=0, last=count)
    figures, shares = [], np.zeros(data.labels.num_classes)
    for batch in data_pipelines.train_batches(data, config.data, seed=config.seed, start_step=0):
        for image, label, size in zip(batch["image"], batch["label"], batch["size"], strict=True):
            if len(figures) < count:
                found = np.bincount(label.ravel(), minlength=256)[: len(shares)]
                shares += found / label.size / count
                name = data.train.image_name(order[len(figures)])
                figures.append(_figure(name, image, label, size, found, data.labels))
        if len(figures) == count:
            break
    legend = _legend(data.labels, shares)
    notes = [f"skipped: {message}" for message in data.train.skipped]
    skipped = "".join(f"<p>{html.escape(note)}</p>" for note in (*data.warnings, *notes))
    return _page(f"{data.train.name}", _options(config.data, count), legend, skipped, figures)


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


def _figure(name: str, image: np.ndarray, label: np.ndarray, size, found: np.ndarray, labels) -> str:
    opacity = bytes(255 * (k != _CLEAR) for k in range(256))
    mask = _embedded(overlay(label, size, labels.palette), "PNG", transparency=opacity, optimize=True)
    picture = _embedded(Image.fromarray(image), "JPEG", quality=88)
    classes = ", ".join(html.escape(labels.names[k]) for k in np.argsort(-found, kind="stable") if found[k])
    return (
        f'<figure><div class="stack"><img src="{picture}" alt=""><img class="label" src="{mask}" alt=""></div>'
        f"<figcaption>{html.escape(os.path.basename(name))}<span>{size[1]} x {size[0]}: {classes or 'no class'}</span>"
        "</figcaption></figure>"
    )


def _embedded(image: Image.Image, form: str, **options) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _legend(labels, shares: np.ndarray) -> str:
    """The classes that the pictures show, with their share of all pixels, and the names of the others."""
    keys = "".join(
        f'<span class="key"><i style="background:rgb({",".join(map(str, labels.palette[k]))})"></i>'
        f"{html.escape(labels.names[k])} <small>{shares[k]:.1%}</small></span>"
        for k in np.argsort(-shares, kind="stable")
        if shares[k]
    )
    keys += '<span class="key"><i class="ignored"></i>ignored</span><span class="key"><i></i>padding</span>'
    absent = [html.escape(name) for name, share in zip(labels.names, shares, strict=True) if not share]
    return f"<p>{keys}</p>" + (f'<p class="dim">Not in these pictures: {", ".join(absent)}.</p>' if absent else "")


def _options(config, count: int) -> str:
    keys = ("crop", "scale", "ratio_range", "cat_max_ratio", "flip", "photometric")
    return f"{count} pictures of training; " + ", ".join(f"{key} {config[key]}" for key in keys)


def _page(title: str, options: str, legend: str, skipped: str, figures: list[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{html.escape(title)}</h1><p class="dim">{html.escape(options)}</p>{legend}{skipped}'
        '<p><label>labels <input type="range" min="0" max="1" step="0.05" value="0.55" '
        "oninput=\"document.body.style.setProperty('--labels',this.value)\"></label> "
        '<span class="dim">Point at a picture to see it without.</span></p>'
        f'<div class="grid">{"".join(figures)}</div></main></body></html>\n'
    )


_STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2330;--dim:#667085;--rule:#e4e7ec;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1b212b;--ink:#e6e9ef;--dim:#96a0b1;--rule:#2e3644}}
*{box-sizing:border-box}body{--labels:.55;margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1600px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:24px;margin:0;overflow-wrap:anywhere}p{margin:8px 0}.dim,small,figcaption span{color:var(--dim)}
.key{display:inline-block;margin:0 16px 4px 0;font-size:13.5px}
.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px;
background:#808080;border:1px solid rgba(128,128,128,.45)}
.key .ignored{background:repeating-linear-gradient(135deg,#fff 0 2px,#444 2px 5px)}
input{vertical-align:middle}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;overflow:hidden}
.stack{position:relative}.stack img{width:100%;display:block}
.stack .label{position:absolute;inset:0;height:100%;opacity:var(--labels);image-rendering:pixelated}
.stack:hover .label{opacity:0}
figcaption{padding:8px 12px;font-size:13px;overflow-wrap:anywhere}figcaption span{display:block}
"""


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
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:
        sys.exit(f"data_pipelines.browse: the config has no such option or not of that kind: {error}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "File of the experiment, e.g. configs/camvid_aspp.py.")
    flags.DEFINE_string("output", None, "The HTML file to write.")
    flags.DEFINE_integer("count", 24, "Number of pictures.", lower_bound=1)
    flags.mark_flags_as_required(["config", "output"])
    app.run(main, flags_parser=parse)
