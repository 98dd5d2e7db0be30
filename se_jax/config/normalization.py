"""How images are normalised: (x - mean) / std, by channel, on the scale of 0 to 255. An encoder's weights want theirs.

A normalisation is ((mean of red, green, blue), (std of red, green, blue)), or as many numbers as images have channels:
a network's channels are those of its normalisation. config.model.normalization.
"""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]

# torchvision's, mmsegmentation's and of most of timm's weights: what ImageNet's images have
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
INCEPTION = ((127.5,) * 3, (127.5,) * 3)  # of timm's Xception, EfficientNet-Lite and others from TensorFlow: -1 to 1
LITE = ((127.0,) * 3, (128.0,) * 3)  # EfficientNet-Lite as its authors trained it, lite_models in google/efficientnet


def for_channels(normalization: Normalization, channels: int) -> Normalization:
    """The same for images of another number of channels, ours: of one the mean over the colours, of more these in turn.

    So the fourth channel has red's numbers, as it has red's kernels where weights of RGB are imported
    (`se_jax.importers.adapt.convert_channels`).
    """
    if channels == len(normalization[0]):
        return normalization
    if channels == 1:
        return tuple((round(sum(values) / len(values), 6),) for values in normalization)  # pyright: ignore
    return tuple(tuple(values[i % len(values)] for i in range(channels)) for values in normalization)  # pyright: ignore


def text(normalization: Normalization) -> str:
    """'mean (123.675, 116.28, 103.53) and std (58.395, 57.12, 57.375)'."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in normalization)
    return f"mean ({mean}) and std ({std})"
