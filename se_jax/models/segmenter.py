"""The whole network: image -> encoder -> decoder -> outputs -> scores."""

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from se_jax.config.normalization import IMAGENET, Normalization
from se_jax.models.decoders.base import Decoder


def check_images(images, who: str, channels: int = 3) -> None:
    """Raises ValueError, in the name of `who`, where images are not [b, h, w, channels]."""
    shape = getattr(images, "shape", None)
    if shape is None:
        raise ValueError(
            f"{who} got {type(images).__name__}; expected an array of images [batch, height, width, {channels}]"
        )
    if len(shape) != 4 or shape[3] != channels:
        advice = ""
        if len(shape) == 4 and shape[1] == channels:
            advice = f". They are [batch, {channels}, height, width], as of PyTorch: images.transpose(0, 2, 3, 1)"
        elif len(shape) == 3 and shape[2] == channels:
            advice = ". A single image is a batch of one: image[None]"
        raise ValueError(
            f"{who} got images of shape {list(shape)}; expected [batch, height, width, {channels}]{advice}"
        )


def normalize(images, sizes=None, normalization: Normalization = IMAGENET):
    """Normalises images [b, h, w, c], RGB mostly, of 0..255 to float32 of about zero mean and unit variance.

    As a network's weights expect it: `network.normalize(images)`.

    Args:
      sizes: int32 [b, 2], (h, w) of each image without its padding at the bottom and right; padding becomes 0 *after*
        normalisation, as in the reference's SegDataPreProcessor. None where nothing is padded.
      normalization: (mean, std) of the c channels on the scale of 0 to 255; ImageNet's are the reference's.
    """
    check_images(images, "normalize", len(normalization[0]))
    mean, std = np.asarray(normalization, np.float32)
    x = (images.astype(jnp.float32) - mean) / std
    if sizes is None:
        return x
    rows = jnp.arange(x.shape[1]) < sizes[:, :1]
    columns = jnp.arange(x.shape[2]) < sizes[:, 1:]
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], x, 0.0)


MOST_STRIDE = 32  # of any decoder's upsampling


def _check_excess(logits: tuple[int, int], images: tuple[int, int]) -> None:
    """Logits may cover the images and the rest of their last window; more than that is a decoder that does not fit."""
    if any(side >= length + MOST_STRIDE for side, length in zip(logits, images, strict=True)):
        raise ValueError(
            f"the decoder's logits are {logits[0]}x{logits[1]} for images of {images[0]}x{images[1]}: it doubles the "
            "resolution too often for this encoder; give fewer model.decoder.blocks"
        )


class Segmenter(nn.Module):
    """Normalised images float32 [b, h, w, c] -> the decoder's outputs, e.g. {'logits': float32 [b, h / s, w / s, K]}.

    Logits that are higher or wider than the image, as windows of pixels make them, are cut off at the bottom and right.

    With `train=True` BatchNorm uses the batch's statistics, dropout acts if a 'dropout' key is given, and the auxiliary
    head, where there is one, adds {'auxiliary': logits at its own resolution}.

    Attributes:
      normalization: (mean, std) of each of the c channels, 3 mostly, by which the encoder's weights want images
        normalised; `normalize` does.

    Raises:
      ValueError: a part is no module of its kind; in a call, images of another shape, or that are not normalised.
    """

    encoder: nn.Module
    decoder: Decoder
    auxiliary: Decoder | None = None
    normalization: Normalization = IMAGENET

    def __post_init__(self):
        parts = {"encoder": (self.encoder, nn.Module), "decoder": (self.decoder, Decoder)}
        if self.auxiliary is not None:
            parts["auxiliary"] = (self.auxiliary, Decoder)
        for name, (module, kind) in parts.items():
            if not isinstance(module, kind):
                what = "an encoder module, e.g. ResNet(50)" if kind is nn.Module else "a Decoder, e.g. ASPPHead(19)"
                raise ValueError(
                    f"Segmenter {name} is {module!r}; expected {what}. se_jax.build(config.model) takes names, as "
                    "config.model.encoder.name"
                )
        if self.decoder.joint and not hasattr(self.encoder, "run"):
            raise ValueError(
                f"Segmenter encoder is {type(self.encoder).__name__}; decoder {type(self.decoder).__name__} runs "
                "blocks of a plain vision transformer, ViT (model.encoder.name='vit')"
            )
        if self.decoder.joint and self.auxiliary is not None:
            raise ValueError(
                f"Segmenter auxiliary is {type(self.auxiliary).__name__}; decoder {type(self.decoder).__name__} leaves "
                "it no maps: expected None (model.auxiliary=None)"
            )
        super().__post_init__()

    def normalize(self, images, sizes=None):
        """Images [b, h, w, channels] of 0..255 as the weights expect them; see the function `normalize`."""
        return normalize(images, sizes, self.normalization)

    @property
    def channels(self) -> int:
        """Of images."""
        return len(self.normalization[0])

    @property
    def num_classes(self) -> int:
        return self.decoder.num_classes

    @property
    def align_corners(self) -> bool:
        """How logits are resized."""
        return self.decoder.align_corners

    @property
    def size_multiple(self) -> int:
        """Sides of images must be multiples of this: of what the decoder wants, and of an encoder's patch."""
        return math.lcm(self.decoder.size_multiple, getattr(self.encoder, "size_multiple", 1))

    @property
    def constants(self) -> Mapping[str, str]:
        """Collections that are made before training and then stay as they are -> the command that makes them."""
        return self.decoder.constants

    @property
    def linear_scores(self) -> bool:
        """Whether scores are nothing but resized logits."""
        return self.decoder.linear_scores and self.decoder.pad_to == 1

    def scores(self, outputs, size: tuple[int, int]):
        """The outputs' class scores float32 [b, *size, K] for images of that size."""
        return self.decoder.scores(outputs, self._padded(size))[:, : size[0], : size[1]]

    def segments(self, outputs, size: tuple[int, int], most: int):
        """The surest masks that the scores of images of that size are the sum of, or None; see `Decoder.segments`."""
        found = self.decoder.segments(outputs, self._padded(size), most)
        return None if found is None else found | {"mask": found["mask"][..., : size[0], : size[1]]}

    def probabilities(self, scores):
        """What of scores is averaged over several views of an image."""
        return self.decoder.probabilities(scores)

    def with_equalizer(self, **changes) -> "Segmenter":
        """The same network with other equalizer options in its decoder, e.g. `mode='explicit'`."""
        equalizer = dataclasses.replace(self.decoder.equalizer, **changes)
        return self.clone(decoder=self.decoder.clone(equalizer=equalizer))

    def __call__(self, images, train: bool = False, progress=None):
        """progress: the share of a training run that is over, a scalar, for decoders that change with it."""
        check_images(images, "Segmenter", self.channels)
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"Segmenter got {images.dtype} images; expected normalised ones, of floating point: "
                "network.normalize(images)"
            )
        height, width = images.shape[1:3]
        ends = [(0, side - have) for side, have in zip(self._padded((height, width)), (height, width), strict=True)]
        if any(end for _, end in ends):
            images = jnp.pad(images, [(0, 0), *ends, (0, 0)])
        if self.decoder.joint:
            return dict(self.decoder(images, train, encoder=self.encoder, progress=progress))
        features = self.encoder(images, train)
        outputs = dict(self.decoder(features, train))
        if "logits" in outputs:
            _check_excess(outputs["logits"].shape[1:3], (height, width))
            outputs["logits"] = outputs["logits"][:, :height, :width]
        if self.auxiliary is not None and (train or self.is_initializing()):
            outputs["auxiliary"] = self.auxiliary(features, train)["logits"]
        return outputs

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = (-(-side // self.decoder.pad_to) * self.decoder.pad_to for side in size)
        return height, width
