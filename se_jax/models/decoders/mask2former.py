"""Mask2FormerHead: queries that predict a class and a mask each, from features that attend to each other.

Source: Cheng et al., Mask2Former, CVPR 2022 (arXiv 2112.01527), as facebookresearch/Mask2Former and mmsegmentation
build it for semantic segmentation.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from se_jax.equalizer.fusion import Equalizer, NormedSumConv
from se_jax.models.decoders.queries import QueryHead
from se_jax.models.deformable import DeformableEncoder
from se_jax.models.layers import Conv
from se_jax.models.masked_attention import QueryDecoder

GROUPS = 32  # of GroupNorm
caffe2_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class PixelDecoder(nn.Module):
    """Features, finest first -> (mask features [b, h, w, mask_channels] at the finest's size, maps, coarsest first).

    All features but the finest attend to each other; the finest of what comes out is enlarged and added to that: site
    'fpn'.

    Attributes:
      encoder: of the coarser features; its channels are those of all maps.
    """

    encoder: DeformableEncoder
    mask_channels: int
    equalizer: Equalizer = Equalizer()
    align_corners: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features, train: bool = False):
        finest, *others = (x.astype(self.dtype) for x in features)
        memories, channels = self.encoder(others), self.encoder.channels
        lateral = Conv(channels, 1, kernel_init=caffe2_xavier, dtype=self.dtype, name="lateral_convs_0")(finest)
        fuse = NormedSumConv(
            "fpn",
            channels,
            kernel_init=caffe2_xavier,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            dtype=self.dtype,
            name="output_convs_0",
        )
        x = fuse({"lateral": lateral, "encoder": memories[-1]}, finest.shape[1:3])
        options = {"kernel_init": caffe2_xavier, "dtype": self.dtype, "name": "mask_feature"}
        return Conv(self.mask_channels, 1, use_bias=True, **options)(x), memories


class Mask2FormerHead(QueryHead):
    """Features, finest first -> a class and a mask of every query, predicted layers + 1 times.

    Outputs, float32: 'class_logits' [layers + 1, b, queries, num_classes + 1], the last class being 'no object';
    'mask_embeddings' [layers + 1, b, queries, mask_channels]; 'mask_features' [b, h / 4, w / 4, mask_channels].
    Products of the last two are the masks' logits, which nobody needs all at once. Images are padded to multiples of
    32.

    Site: 'fpn', where the pixel decoder adds the finest feature to an enlarged one.

    Attributes:
      channels: of the pixel decoder and the queries. mask_channels: of the mask features; as many by default.
      layers, heads, hidden: of the queries' decoder: its layers, heads of an attention, feed-forward channels.
      pixel_layers, pixel_heads, pixel_points, pixel_hidden: likewise of the pixel decoder; points a head and level.

    Raises:
      ValueError: for channels that groups or heads do not divide, or a dropout, which this head does not have.
    """

    channels: int = 256
    mask_channels: int | None = None
    queries: int = 100
    layers: int = 9
    heads: int = 8
    hidden: int = 2048
    pixel_layers: int = 6
    pixel_heads: int = 8
    pixel_points: int = 4
    pixel_hidden: int = 1024
    dropout: float = 0.0
    pad_to: ClassVar[int] = 32
    classifier: ClassVar[tuple[str, ...]] = ("query_decoder/predictions/cls_embed",)

    def __post_init__(self):
        divisor = math.lcm(GROUPS, self.heads, self.pixel_heads)
        if self.channels < 1 or self.channels % divisor:
            raise ValueError(
                f"{type(self).__name__} channels is {self.channels}; expected a multiple of {divisor}, which the "
                f"{GROUPS} groups of its norms, heads={self.heads} and pixel_heads={self.pixel_heads} divide."
            )
        if self.dropout:
            raise ValueError(f"{type(self).__name__} dropout is {self.dropout}; expected 0, as it has none.")
        super().__post_init__()

    @nn.compact
    def __call__(self, features, train: bool = False):
        pixel_decoder = self.pixel_decoder(parent=self, name="pixel_decoder")
        mask_features, memories = pixel_decoder(features, train)
        decoder = QueryDecoder(
            self.num_classes,
            self.queries,
            self.layers,
            self.heads,
            self.hidden,
            dtype=self.dtype,
            name="query_decoder",
        )
        mask_features = mask_features.astype(jnp.float32)
        classes, embeddings = decoder(mask_features, memories, self.align_corners)
        return {"class_logits": classes, "mask_embeddings": embeddings, "mask_features": mask_features}

    def pixel_decoder(self, **scope) -> nn.Module:
        """What makes of the features those of the masks and the queries' maps, in float32 as the reference's.

        scope: the module's parent and name; parent=None for one by itself.
        """
        return PixelDecoder(
            self.deformable_encoder(),
            self.mask_channels or self.channels,
            equalizer=self.equalizer,
            align_corners=self.align_corners,
            **scope,
        )

    def deformable_encoder(self) -> DeformableEncoder:
        """The pixel decoder's."""
        sizes = self.pixel_layers, self.pixel_heads, self.pixel_points, self.pixel_hidden
        return DeformableEncoder(self.channels, *sizes, parent=None)

    def check(self, stride, crop):
        if any(side % self.pad_to for side in crop):
            fitting = tuple(-(-side // self.pad_to) * self.pad_to for side in crop)
            raise ValueError(
                f"data.crop is {tuple(crop)}; decoder {type(self).__name__} expects multiples of {self.pad_to}, e.g. "
                f"{fitting}."
            )
