"""Pieces of a page that loads nothing: its style, sections and pictures. Used by `se_jax.report`, `se_jax.mistakes`."""

import base64
import html
import io
import math

import numpy as np
from PIL import Image

PICTURE = 420  # widest embedded picture, in pixels
IGNORED = (235, 235, 235)  # colour of pixels that count for nothing


def section(title: str, body: str, text: str = "", wide: bool = False) -> str:
    """A card with a headline; nothing where the body is empty. `text` and `body` are HTML."""
    kind = ' class="wide"' if wide else ""
    text = f'<p class="text">{text}</p>' if text else ""
    return f"<section{kind}><h2>{html.escape(title)}</h2>{text}{body}</section>" if body else ""


def percent(value, digits: int = 2) -> str:
    """A fraction in percent; a dash for None and what is not finite."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}"


def swatch(color) -> str:
    """A small square of a colour [r, g, b] (0 to 255) and, if there is one, opacity a (0 to 1)."""
    *rgb, alpha = (*color, 1)[:4]
    return f'<i class="swatch" style="background:rgba({",".join(str(int(c)) for c in rgb)},{alpha:g})"></i>'


def data_url(picture: Image.Image, kind: str) -> str:
    """A picture as an address that holds it; kind: "JPEG" or "PNG"."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photo(image) -> str:
    """uint8 [h, w, 3] as an <img> of at most PICTURE pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE, PICTURE))
    return f'<img alt="" src="{data_url(picture, "JPEG")}">'


def mask(ids, palette) -> str:
    """Class ids [h, w] as an <img> of their colours, uint8 [K, 3], of at most PICTURE pixels a side."""
    step = -(-max(ids.shape) // PICTURE)
    picture = Image.fromarray(np.ascontiguousarray(ids[::step, ::step]))
    colors = np.full((256, 3), IGNORED, np.uint8)
    colors[: len(palette)] = palette
    picture.putpalette(colors.tobytes())
    return f'<img alt="" class="mask" src="{data_url(picture, "PNG")}">'


STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2330;--dim:#667085;--rule:#e4e7ec;--c0:#2563c9;--c1:#d9701a;--c2:#1a8f6b;--c3:#8b4fc4;
--c4:#c23b5e;--c5:#6b7a1f;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--card:#1b212b;--ink:#e6e9ef;--dim:#96a0b1;--rule:#2e3644;--c0:#6ba1f5;
--c1:#f09b52;--c2:#4cc39c;--c3:#b98be6;--c4:#ef7d9a;--c5:#b5c45a}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
header{margin-bottom:20px}header p{max-width:80ch;margin:8px 0}
h1{font-size:28px;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:0 0 10px}h3{font-size:15px;margin:0 0 2px}
.sub,.text,.none{color:var(--dim)}.text{max-width:85ch;margin:-4px 0 14px}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:20px 22px;margin:16px 0;
overflow-x:auto}
.wide{--w:min(96vw,1660px);width:var(--w);margin-inline:calc((100% - var(--w))/2)}
.tiles{background:none;border:0;padding:0;display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(320px,1fr))}
.tile{background:var(--card);border:1px solid var(--rule);border-left:4px solid;border-radius:12px;padding:16px 22px}
.big{font-size:44px;font-weight:650;letter-spacing:-.02em;line-height:1.2}
.big small{font-size:18px;color:var(--dim);font-weight:500}
.facts{display:flex;flex-wrap:wrap;gap:8px 28px;margin-top:8px}.facts b{display:block;font-variant-numeric:tabular-nums}
.facts span{color:var(--dim);font-size:12.5px}
.figures{display:grid;gap:20px;grid-template-columns:repeat(auto-fit,minmax(400px,1fr))}
figure{margin:0}figcaption{font-weight:600;margin-bottom:4px}
svg{width:100%;height:auto;display:block}svg text{font-size:12px;fill:var(--dim);font-variant-numeric:tabular-nums}
svg .axis{font-size:12px}svg .group{font-size:13px;font-weight:600;fill:var(--ink)}svg .value{fill:var(--ink)}
svg .grid{stroke:var(--rule)}svg .unknown{fill:var(--rule)}svg .cell{fill:#fff}svg .weak{fill:var(--ink)}
svg .over{fill:transparent}svg .over:hover{stroke:var(--ink);stroke-width:1.5}svg .frame{fill:none;stroke:var(--dim)}
svg .line{fill:none;stroke-width:2;stroke-linejoin:round}
.pair{display:grid;gap:28px;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));align-items:start}
.beside{display:flex;flex-wrap:wrap;gap:28px;align-items:start}.beside>div{flex:1 1 400px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--rule);font-weight:400}
thead th{color:var(--dim);font-size:12.5px;white-space:nowrap}tbody tr:last-child>*{border-bottom:0}
.num,thead th+th+th{text-align:left}.total>*{font-weight:650;border-top:2px solid var(--rule)}
.bar{position:relative;min-width:170px;white-space:nowrap}.bar b{font-weight:inherit}
.bar span{display:inline-block;vertical-align:middle;height:10px;border-radius:3px;
width:calc(var(--v) * (100% - 64px));margin-right:8px;opacity:.85}
.swatch,.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:8px;vertical-align:-1px;
border:1px solid rgba(128,128,128,.45)}
.key{display:inline-block;margin:0 18px 8px 0;font-size:13.5px}
.grid-pictures{display:grid;gap:8px;min-width:640px}.grid-pictures .head{color:var(--dim);font-size:12.5px}
.grid-pictures .row{grid-column:1/-1;margin-top:10px}.grid-pictures .row span{color:var(--dim)}
.grid-pictures img{width:100%;display:block;border-radius:6px}.mask{image-rendering:pixelated}
summary{cursor:pointer;font-weight:600;padding:4px 0}.setup th{color:var(--dim);width:34%}
.setup td{word-break:break-word;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px}
.differs td{font-weight:700}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
"""
