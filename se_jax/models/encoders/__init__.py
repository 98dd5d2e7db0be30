from se_jax.models.encoders.resnet import ResNet

__all__ = ["ResNet"]
