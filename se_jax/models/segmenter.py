"""The whole network: image -> encoder -> decoder -> logits."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

# ImageNet's mean and standard deviation on the 0..255 scale, RGB: the reference's preprocessing
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)


def normalize(images, sizes=None):
    """Normalises RGB images [b, h, w, 3] of 0..255 to float32 of about zero mean and unit variance.

    Args:
      sizes: int32 [b, 2], (h, w) of each image without its padding at the bottom and right; padding becomes 0 *after*
        normalisation, as in the reference's SegDataPreProcessor. None where nothing is padded.
    """
    x = (images.astype(jnp.float32) - MEAN) / STD
    if sizes is None:
        return x
    rows = jnp.arange(x.shape[1]) < sizes[:, :1]
    columns = jnp.arange(x.shape[2]) < sizes[:, 1:]
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], x, 0.0)


class Segmenter(nn.Module):
    """Normalised images float32 [b, h, w, 3] -> {'logits': float32 [b, h / s, w / s, num_classes]}.

    Logits that are higher or wider than the image, as windows of pixels make them, are cut off at the bottom and right.

    With `train=True` BatchNorm uses the batch's statistics, dropout acts if a 'dropout' key is given, and the auxiliary
    head, where there is one, adds {'auxiliary': logits at its own resolution}.
    """

    encoder: nn.Module
    decoder: nn.Module
    auxiliary: nn.Module | None = None

    @property
    def num_classes(self) -> int:
        return self.decoder.num_classes

    @property
    def align_corners(self) -> bool:
        """How the caller is to resize the logits."""
        return self.decoder.align_corners

    @property
    def size_multiple(self) -> int:
        """Sides of images must be multiples of this."""
        return getattr(self.decoder, "size_multiple", 1)

    @property
    def sites(self) -> dict[str, bool]:
        """Fusion sites in nesting order: name -> equalized by default."""
        return self.decoder.sites

    @property
    def equalized_sites(self) -> tuple[str, ...]:
        """Names of the sites that this network equalizes, in nesting order."""
        return tuple(name for name, default in self.sites.items() if self.decoder.equalizer.selects(name, default))

    def with_equalizer(self, **changes) -> "Segmenter":
        """The same network with other equalizer options, e.g. `mode='explicit'`."""
        equalizer = dataclasses.replace(self.decoder.equalizer, **changes)
        return self.clone(decoder=self.decoder.clone(equalizer=equalizer))

    def __call__(self, images, train: bool = False):
        features = self.encoder(images, train)
        outputs = {"logits": self.decoder(features, train)[:, : images.shape[1], : images.shape[2]]}
        if self.auxiliary is not None and (train or self.is_initializing()):
            outputs["auxiliary"] = self.auxiliary(features, train)
        return outputs
