"""LinearHead: one linear map of normalised features, by which frozen encoders are measured.

Source: Oquab et al., DINOv2 (arXiv 2304.07193), as facebookresearch/dinov2's BNHead and dinov3's LinearHead build it.
"""

import flax.linen as nn
import jax.numpy as jnp

from se_jax.equalizer.fusion import Fusion
from se_jax.models.decoders.base import Decoder
from se_jax.models.initializers import classifier_normal
from se_jax.models.layers import BatchNorm, ChannelDropout, Conv


class LinearHead(Decoder):
    """Features, finest first -> logits float32 [b, h, w, num_classes] at the resolution of the first.

    All maps are concatenated, at the size of the first; then dropout (DINOv3: 0.1, DINOv2: 0), BatchNorm, and a 1x1
    convolution. Of several maps the concatenation is a site, 'levels', equalized only where named: a plain vision
    transformer's maps are all of one size, and the BatchNorm takes any scale of a branch out again.

    Attributes:
      channels: not used; there is no map between the features and the classes.
    """

    dropout: float = 0.0

    @nn.compact
    def __call__(self, features, train: bool = False):
        x = features[0]
        if len(features) > 1:
            options = {"default": False, "dtype": self.dtype, "name": "levels"}
            fuse = Fusion(self.equalizer, "concat", self.align_corners, **options)
            x = fuse({f"level{i}": x for i, x in enumerate(features)}, x.shape[1:3])
        x = BatchNorm(dtype=self.dtype, name="bn")(ChannelDropout(self.dropout, name="dropout")(x, train), train)
        options = {"use_bias": True, "kernel_init": classifier_normal, "dtype": self.dtype, "name": "conv_seg"}
        return {"logits": Conv(self.num_classes, 1, **options)(x).astype(jnp.float32)}
