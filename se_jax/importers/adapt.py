"""Tensors made for another size than the network's: bias tables of other windows, first convolutions of other channels.

Sources: mmsegmentation 1.2.2's SwinTransformer (tables, by torch's bicubic interpolate); timm's adapt_input_conv and
segmentation_models_pytorch's patch_first_conv, which agree.
"""

import math

import numpy as np

from se_jax.importers.rules import Leaf
from se_jax.models.positions import cubic_matrix

RGB = 3


def to_network(
    tensors: list[np.ndarray], leaf: Leaf, shape: tuple[int, ...], *, stem: bool, bgr: bool
) -> tuple[list[np.ndarray], str]:
    """The tensors of one of our arrays, made to fit where the size may differ, and what was done ('' for nothing).

    Args:
      shape: of our array.
      stem: it is the kernel [kh, kw, channels, out] of the first convolution.
      bgr: the checkpoint's first convolution sees the channels in the other order.

    Raises:
      ValueError: it cannot be made to fit; says why.
    """
    tensor, notes = tensors[0], []
    if leaf.fit is not None:
        tensor, note = leaf.fit(tensor, shape)
        tensors, notes = [tensor], [note] * bool(note)
    if leaf.name == "bias_table" and tensor.ndim == 2 and len(tensor) != shape[0]:
        side, wanted = math.isqrt(len(tensor)), math.isqrt(shape[0])
        if side**2 == len(tensor) and wanted**2 == shape[0]:
            return [resize_bias_table(tensor, wanted)], f"window {(side + 1) // 2} -> {(wanted + 1) // 2}, bicubic"
    if not stem or tensor.ndim != 4:
        return tensors, ", ".join(notes)
    if bgr:
        tensor = tensor[:, ::-1]
        notes.append("BGR -> RGB")
    if tensor.shape[1] == RGB and shape[2] != RGB:
        tensor = convert_channels(tensor, shape[2])
        notes.append(f"{RGB} -> {shape[2]} input channels")
    return [tensor, *tensors[1:]], ", ".join(notes)


def convert_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """An RGB kernel [out, 3, kh, kw] for images of other channels: [out, channels, kh, kw].

    One channel sees the sum over the colours, as a grey image has three equal ones; more see the colours in turn,
    scaled so that the output keeps its size.
    """
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    repeats = -(-channels // RGB)
    return np.tile(kernel, (1, repeats, 1, 1))[:, :channels] * np.float32(RGB / channels)


def resize_bias_table(table: np.ndarray, side: int) -> np.ndarray:
    """Relative position biases [s * s, heads] of another window: [side * side, heads], side = 2 window - 1."""
    source = math.isqrt(len(table))
    matrix = cubic_matrix(source, side)
    squares = table.reshape(source, source, -1).astype(np.float64)
    return np.einsum("is,jt,sth->ijh", matrix, matrix, squares).reshape(side * side, -1).astype(table.dtype)
