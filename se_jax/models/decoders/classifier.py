"""What every head ends with: channel dropout and a 1x1 convolution to the classes."""

import jax.numpy as jnp

from se_jax.models.layers import ChannelDropout, Conv, classifier_normal


def classify(x, num_classes: int, dropout: float, train: bool, dtype):
    """[b, h, w, c] -> logits float32 [b, h, w, num_classes]; its layers belong to the module that calls it."""
    x = ChannelDropout(dropout, name="dropout")(x, train)
    conv_seg = Conv(num_classes, 1, use_bias=True, kernel_init=classifier_normal, dtype=dtype, name="conv_seg")
    return conv_seg(x).astype(jnp.float32)
