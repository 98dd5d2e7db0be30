"""Prediction for images of one size as one traceable function: what export writes, and an outer program may hold.

`se_jax.evaluation.inference` compiles the network alone and keeps few programs for hundreds of sizes. Here all is one:
fitting, normalising, the network on every window, restoration. Both compute the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from se_jax.evaluation import geometry
from se_jax.evaluation.inference import fit, restored, shares
from se_jax.evaluation.protocol import Protocol

OUTPUTS = ("ids", "probabilities")


def shrunk(images, size: tuple[int, int]):
    """uint8 [b, h, w, 3] -> uint8 [b, *size, 3] as by PIL's bilinear filter, up to one level: columns, then rows."""
    for axis in (2, 1):
        shape = (*images.shape[:axis], size[axis - 1], *images.shape[axis + 1 :])
        if shape != images.shape:
            resized = jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)
            images = jnp.floor(resized + 0.5).astype(jnp.uint8)
    return images


def program(model, variables, protocol: Protocol, size: tuple[int, int], outputs: str = "ids") -> Callable[..., Any]:
    """The function uint8 images [b, *size, 3] (RGB) -> uint8 class ids [b, *size], or float32 probabilities [.., K].

    All windows of an image go through the network as one batch.

    Args:
      model: a Segmenter; variables: what its `apply` takes, which become constants of the function.
      size: (height, width) of the images.

    Raises:
      ValueError: the protocol wants several views; `outputs` is none of OUTPUTS; `size` is none for this network.
    """
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs is {outputs!r}; expected one of {', '.join(OUTPUTS)}")
    if protocol.tta:
        raise ValueError("eval.tta is True, which is twelve networks in one program; give --config.eval.tta=False")
    view = protocol.views(size)[0]
    window, starts = zip(*map(protocol.windows, view.size, (0, 1)), strict=True)
    if any(side % model.size_multiple for side in window):
        raise ValueError(
            f"images of {size[0]}x{size[1]} reach the network as {window[0]}x{window[1]}; its sides are multiples of "
            f"{model.size_multiple}: set eval.size_multiple={model.size_multiple}, or give another size"
        )
    corners = [(top, left) for top in starts[0] for left in starts[1]]

    def fitted(images):
        images = shrunk(images, protocol.seen_size(size))
        for between in (view.fitted, view.size):
            if between is not None and between != images.shape[1:3]:
                lengths = zip(images.shape[1:3], between, strict=True)
                images = fit(images, *(geometry.taps(*each) for each in lengths))
        return images

    def scores(images):
        images = fitted(images)
        parts = [images[:, top : top + window[0], left : left + window[1]] for top, left in corners]
        found = model.apply(variables, model.normalize(jnp.concatenate(parts)))
        maps = found["logits"] if model.linear_scores else model.scores(found, window)
        rows, columns = (
            geometry.restoration(*lengths, False, model.align_corners)
            for lengths in zip(maps.shape[1:3], window, starts, view.size, size, strict=True)
        )
        if len(corners) == 1 and maps.shape[1:3] == size:  # nothing to restore
            return maps
        maps = maps.reshape(len(starts[0]), len(starts[1]), -1, *maps.shape[1:])
        parts = [restored(maps[i, j], rows[i], columns[j]) for i, j in np.ndindex(len(rows), len(columns))]
        return functools.reduce(jnp.add, parts)

    if outputs == "probabilities":
        return lambda images: shares(model, 1, scores(images))
    return lambda images: jnp.argmax(scores(images), axis=-1).astype(jnp.uint8)
