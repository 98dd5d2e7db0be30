"""Pictures as data URLs: addresses that hold the picture itself, so that a page loads nothing."""

import base64
import io

import numpy as np
from PIL import Image

PICTURE = 420  # widest embedded picture, in pixels
IGNORED = (235, 235, 235)  # colour of pixels that count for nothing


def data_url(picture: Image.Image, kind: str) -> str:
    """A picture as an address that holds it; kind: "JPEG" or "PNG"."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photo(image) -> str:
    """uint8 [h, w, 3] as a data URL of a picture of at most PICTURE pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE, PICTURE))
    return data_url(picture, "JPEG")


def mask(ids, palette) -> str:
    """Class ids [h, w] in their colours, uint8 [K, 3], as a data URL of a picture of at most PICTURE pixels a side."""
    step = -(-max(ids.shape) // PICTURE)
    picture = Image.fromarray(np.ascontiguousarray(ids[::step, ::step]))
    colors = np.full((256, 3), IGNORED, np.uint8)
    colors[: len(palette)] = palette
    picture.putpalette(colors.tobytes())
    return data_url(picture, "PNG")
