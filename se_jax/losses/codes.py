"""DUpsampling's L2 loss of codes, for pre-training."""

import dataclasses

import jax.numpy as jnp

from se_jax.losses.base import IGNORE, Loss
from se_jax.models.decoders.dupsampling import COLLECTION, PLACE, tile


@dataclasses.dataclass(frozen=True)
class SquaredErrorOfCodes(Loss):
    """The mean of (codes - P (v - mean))^2 over codes and windows, {'loss_decoder': it}.

    v is a window's one-hot vector. As in the fit, v - mean is 0 where a pixel is ignored; a window counts with the
    share of its pixels that are not. W's columns are orthonormal, so the gradient is, up to a factor, that of the
    squared error of the scores W codes + mean.

    Attributes:
      ratio: a code stands for ratio x ratio pixels.
    """

    ratio: int

    def __call__(self, outputs, constants, batch, normalizer, key):
        """Codes float32 [b, h, w, k] against labels [b, h', w'], h' <= h * ratio; an id of no class makes it NaN."""
        fitted = constants[COLLECTION]
        for name in PLACE:
            fitted = fitted[name]
        error = squared_error_of_codes(outputs["codes"], **fitted, ratio=self.ratio, label=batch["label"])
        return {"loss_decoder": self.weight * (error / normalizer)}


def squared_error_of_codes(codes, kernel, bias, *, ratio: int, label):
    """The error's mean over the codes of each window, times the window's pixels that are not ignored, summed.

    Args:
      codes: float32 [b, h, w, k], of the network. kernel: [k, N], P. bias: [N], the mean of one-hot windows.
      label: [b, h', w'] integer ids or 255, h' <= h * ratio.
    """
    sides = zip(codes.shape[1:3], label.shape[1:], strict=True)
    ends = [(0, side * ratio - have) for side, have in sides]
    windows = tile(jnp.pad(label, [(0, 0), *ends], constant_values=IGNORE)[..., None], ratio)
    classes = bias.size // ratio**2
    labelled = windows != IGNORE
    centred = (windows[..., None] == jnp.arange(classes)) - bias.reshape(ratio**2, classes)
    centred = jnp.where(labelled[..., None], centred, 0).reshape(*windows.shape[:3], -1)
    error = jnp.mean(jnp.square(codes - jnp.einsum("bhwn,kn->bhwk", centred, kernel)), axis=-1)
    error = jnp.where(jnp.all((windows < classes) | ~labelled, axis=-1), error, jnp.nan)
    return jnp.sum(error * jnp.sum(labelled, axis=-1))
