"""How images are normalised: (x - mean) / std, by colour, on the scale of 0 to 255. It belongs to an encoder's weights.

A normalisation is ((mean of red, green, blue), (std of red, green, blue)); config.model.normalization.
"""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

# torchvision's, mmsegmentation's and of most of timm's weights: what ImageNet's images have
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
INCEPTION = ((127.5,) * 3, (127.5,) * 3)  # of timm's Xception, EfficientNet-Lite and others from TensorFlow: -1 to 1
LITE = ((127.0,) * 3, (128.0,) * 3)  # EfficientNet-Lite as its authors trained it, lite_models in google/efficientnet


def text(normalization: Normalization) -> str:
    """'mean (123.675, 116.28, 103.53) and std (58.395, 57.12, 57.375)'."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
    return f"mean ({mean}) and std ({std})"
