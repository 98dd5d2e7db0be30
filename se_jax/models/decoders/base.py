"""What every decoder has in common: its fields, what it promises to training and inference, and the ends of a head."""

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_jax.equalizer.fusion import Equalizer, FusionConv
from se_jax.models.initializers import classifier_normal
from se_jax.models.layers import ChannelDropout, Conv, resize


class Decoder(nn.Module):
    """Encoder features, finest first -> outputs, a dict of arrays; `scores` makes class scores of them.

    A subclass implements `__call__(features, train=False) -> outputs`. Most return {'logits': float32 [b, h, w,
    num_classes]} and need nothing else. What a loss wants besides (codes, queries, ...) is one more output. Training,
    inference and evaluation know a decoder by what stands in this class.

    Attributes:
      channels: width of its maps. dropout: of channels, before the classifier.
      align_corners: of every bilinear resize, that of the logits too.
      size_multiple: sides of images must be multiples of this; evaluation resizes them up (eval.size_multiple).
      pad_to: images are padded with zeros at the bottom and right to multiples of this, and scores cut accordingly.
      constants: collections of variables that are fitted or measured before training and then stay as they are ->
        the command that makes them.
      joint: it runs the encoder itself, `__call__(images, train, encoder=..., progress=...) -> outputs`; progress is
        the share of the run that is over, a scalar in training.
      classifier: names of its modules that belong to the classes, which a network of other classes cannot take over.
    """

    num_classes: int
    channels: int = 512
    # by keyword only, so that a subclass's own fields follow the first two
    dropout: float = field(default=0.1, kw_only=True)
    align_corners: bool = field(default=False, kw_only=True)
    equalizer: Equalizer = field(default=Equalizer(), kw_only=True)
    dtype: Any = field(default=jnp.float32, kw_only=True)

    size_multiple: ClassVar[int] = 1
    pad_to: ClassVar[int] = 1
    constants: ClassVar[Mapping[str, str]] = MappingProxyType({})
    joint: ClassVar[bool] = False
    classifier: ClassVar[tuple[str, ...]] = ("conv_seg",)

    def scores(self, outputs: dict[str, Any], size: tuple[int, int]):
        """The outputs' scores of every class at `size` = (height, width), float32 [b, *size, num_classes].

        By default the logits, resized bilinearly. The class of a pixel is the one of the highest score.
        """
        return resize(outputs["logits"].astype(jnp.float32), size, self.align_corners)

    @property
    def linear_scores(self) -> bool:
        """Whether scores are resized logits: inference then never holds them for a whole image."""
        return type(self).scores is Decoder.scores

    def probabilities(self, scores):
        """Scores [..., num_classes] -> what is averaged over several views of an image: by default their softmax."""
        return jax.nn.softmax(scores, axis=-1)

    def segments(self, outputs: dict[str, Any], size: tuple[int, int], most: int) -> dict[str, Any] | None:
        """The masks that scores are the sum of, the surest first, at most `most`; for a picture in a run's report.

        {'class_id': int [b, n], 'score': float32 [b, n], 'mask': float32 [b, n, *size], of 0 to 1}; None where scores
        are no such sum, as with most heads.
        """
        return None

    @property
    def has_segments(self) -> bool:
        """Whether `segments` finds any."""
        return type(self).segments is not Decoder.segments

    def facts(self) -> dict[str, Any]:
        """What constants of `constants` depend on, by option; those of a run must be the same."""
        return {}

    def check(self, stride: int, crop: tuple[int, int]) -> None:
        """Raises ValueError, naming the option, where the encoder or the training crops do not suit the decoder.

        Args:
          stride: of the encoder's last map. crop: (height, width).
        """


def classify(head: Decoder, x, train: bool):
    """What most heads end with: channel dropout and a 1x1 convolution to the classes.

    [b, h, w, c] -> logits float32 [b, h, w, num_classes]; the layers belong to the head, in whose `__call__` this is
    called.
    """
    x = ChannelDropout(head.dropout, name="dropout")(x, train)
    conv_seg = Conv(
        head.num_classes, 1, use_bias=True, kernel_init=classifier_normal, dtype=head.dtype, name="conv_seg"
    )
    return conv_seg(x).astype(jnp.float32)


def fusion_conv(head: Decoder, site: str, name: str, channels: int | None = None, **options) -> FusionConv:
    """A fusion site of a head and the convolution block behind it, to the head's channels by default.

    name: of the module, which follows the reference's names. options: further fields of FusionConv.
    """
    return FusionConv(
        site,
        head.channels if channels is None else channels,
        equalizer=head.equalizer,
        align_corners=head.align_corners,
        dtype=head.dtype,
        name=name,
        **options,
    )
