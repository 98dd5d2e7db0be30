"""Encoders: a normalised image -> a tuple of feature maps, finest first. One file a family."""

from se_jax.models.encoders.convnext import ConvNeXt
from se_jax.models.encoders.efficientnet import EfficientNet
from se_jax.models.encoders.hrnet import HRNet
from se_jax.models.encoders.mit import MixVisionTransformer
from se_jax.models.encoders.mobilenetv2 import MobileNetV2
from se_jax.models.encoders.resnet import ResNet
from se_jax.models.encoders.swin import Swin
from se_jax.models.encoders.twins import Twins
from se_jax.models.encoders.vit import ViT
from se_jax.models.encoders.xception import Xception

__all__ = [
    "ConvNeXt",
    "EfficientNet",
    "HRNet",
    "MixVisionTransformer",
    "MobileNetV2",
    "ResNet",
    "Swin",
    "Twins",
    "ViT",
    "Xception",
]
