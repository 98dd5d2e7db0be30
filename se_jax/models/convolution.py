"""XLA's convolution, as all platforms have it."""

from jax import lax


def convolution(x, kernel, strides: int, padding: int, dilation: int, groups: int = 1):
    """Cross-correlation with symmetric zero padding: [b, h, w, c] and [kh, kw, c / groups, out] -> [b, h', w', out]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(strides, strides),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
