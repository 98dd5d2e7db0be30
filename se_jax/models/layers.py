"""Layers whose numbers are PyTorch's: convolution, normalisation, resize, pooling, dropout.

Activations are [batch, height, width, channels]; kernels are [kh, kw, in / groups, out]. Sources: PyTorch's operators
as mmsegmentation 1.2.2 and mmcv 2.1.0 call them (mmcv ConvModule, DepthwiseSeparableConvModule, mmseg resize).

XLA's CPU backend is slow at some of these, its GPU backend at one; faster forms of `se_jax.models.cpu` and
`se_jax.models.gpu` are chosen while tracing (`se_jax.models.platforms`). A TPU keeps XLA's own operators.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from se_jax.models import batch_norm, cpu, gpu
from se_jax.models.convolution import convolution
from se_jax.models.frozen import is_frozen
from se_jax.models.initializers import kaiming_normal
from se_jax.models.platforms import on_cpu, on_gpu

Dtype = Any

UPSAMPLES = ("bilinear", "nearest")


def linear(x, kernel) -> Any:
    """[..., c] times [c, out] -> [..., out]."""
    return cpu.product(x, kernel) if on_cpu() else x @ kernel


def add_bias(x, bias) -> Any:
    """[..., c] plus [c]."""
    return cpu.add_bias(x, bias) if on_cpu() else x + bias


def attention(q, k, v) -> Any:
    """Scaled dot-product attention of [b, t, heads, d] to [b, s, heads, d] -> [b, t, heads, d]."""
    return cpu.attention(q, k, v) if on_cpu() else jax.nn.dot_product_attention(q, k, v)


def normalize_channels(x, scale, bias, epsilon: float) -> Any:
    """LayerNorm of float32 [..., c]: mean 0 and biased variance 1 over the channels, then `scale` and `bias`."""
    if on_cpu():
        return cpu.normalize_channels(x, scale, bias, epsilon)
    mean = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + epsilon) * scale + bias


def conv2d(x, kernel, *, strides: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Any:
    """Cross-correlation with symmetric zero padding, as torch's conv2d: [b, h, w, c] -> [b, h', w', out]."""
    single = x.shape[1:3] == (1, 1) and x.shape[0] == 1 and not on_cpu()  # TFLite cannot express the product of one row
    if kernel.shape[:2] == (1, 1) and padding == 0 and groups == 1 and not single:
        return linear(x[:, ::strides, ::strides], kernel[0, 0])
    on_cpu_in_float32 = on_cpu() and x.dtype == jnp.float32  # the forms below add up in the dtype they are given
    if on_cpu_in_float32 and groups > 1 and groups == x.shape[-1] == kernel.shape[-1]:
        return cpu.depthwise(x, kernel, strides, padding, dilation)
    if on_cpu_in_float32 and groups == strides == 1 and 2 * dilation >= 0.3 * min(x.shape[1:3]) and dilation > 1:
        return cpu.conv_by_taps(x, kernel, padding, dilation)
    if on_cpu_in_float32 and groups == 1 and x.shape[-1] >= 16 and x.size >= cpu.LARGE:  # an image's few gain nothing
        return cpu.conv(x, kernel, strides, padding, dilation)
    if on_gpu() and strides == 1 and dilation > 1 and padding % dilation == 0:
        return gpu.dilated_conv(x, kernel, padding, dilation, groups)
    return convolution(x, kernel, strides, padding, dilation, groups)


def tap_bias_map(bias, size: tuple[int, int], *, strides: int, padding: int, dilation: int):
    """Sums for every output pixel the biases of those kernel taps that fall inside the map.

    The same as convolving one more, zero-padded input channel of ones with `bias` as its kernel.

    Args:
      bias: float32 [kh, kw, out], one bias a tap.
      size: (h, w) of the convolution's input.

    Returns:
      [h', w', out], to be added to the convolution's output.
    """
    rows, columns = _taps_inside(size, bias.shape, strides, padding, dilation)
    lines = jnp.einsum("wl,klo->kwo", columns, bias, precision=lax.Precision.HIGHEST)
    return jnp.tensordot(rows, lines, 1, precision=lax.Precision.HIGHEST)


def _taps_inside(size, taps, strides: int, padding: int, dilation: int) -> list[np.ndarray]:
    """For rows and for columns, which tap falls inside the map: 0 or 1, float32 [outputs, taps]."""

    def inside(length: int, taps: int) -> np.ndarray:
        outputs = (length + 2 * padding - dilation * (taps - 1) - 1) // strides + 1
        source = np.arange(outputs)[:, None] * strides - padding + np.arange(taps) * dilation
        return ((source >= 0) & (source < length)).astype(np.float32)

    return [inside(length, count) for length, count in zip(size, taps[:2], strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def add_tap_bias(y, bias, size: tuple[int, int], strides: int, padding: int, dilation: int):
    """A convolution's output [b, h', w', out] plus `tap_bias_map`, of whose arguments these are.

    JAX's gradient would sum maps over images first, which devices would exchange in the place of [kh, kw, out].
    """
    return y + tap_bias_map(bias, size, strides=strides, padding=padding, dilation=dilation).astype(y.dtype)


def _add_tap_bias_forward(y, bias, *geometry):
    return add_tap_bias(y, bias, *geometry), bias


def _add_tap_bias_backward(size, strides, padding, dilation, bias, dy):
    rows, columns = _taps_inside(size, bias.shape, strides, padding, dilation)
    each = jnp.broadcast_to(rows.T, (len(dy), *rows.T.shape))  # a product that reads an image's gradient as it lies
    lines = jnp.einsum("bkh,bhwo->bkwo", each, dy.astype(jnp.float32), precision=lax.Precision.HIGHEST)
    return dy, jnp.einsum("wl,bkwo->bklo", columns, lines, precision=lax.Precision.HIGHEST).sum(0)


add_tap_bias.defvjp(_add_tap_bias_forward, _add_tap_bias_backward)


class Conv(nn.Module):
    """Convolution with torch's padding rule: symmetric, explicit, zero.

    Attributes:
      padding: zeros on every side; by default `dilation * (kernel_size // 2)`, which keeps the size at stride 1.
      tap_bias: adds a bias [kh, kw, out] a tap, which counts where the tap falls inside the map (see `tap_bias_map`);
        it is what folding a scale equalizer leaves behind, and starts at zero.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    tap_bias: bool = False
    kernel_init: Callable = kaiming_normal
    bias_init: Callable = nn.initializers.zeros
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        taps = (self.kernel_size, self.kernel_size)
        padding = self.dilation * (self.kernel_size // 2) if self.padding is None else self.padding
        geometry = {"strides": self.strides, "padding": padding, "dilation": self.dilation}
        kernel = self.param("kernel", self.kernel_init, (*taps, x.shape[-1] // self.groups, self.features))
        y = conv2d(x.astype(self.dtype), kernel.astype(self.dtype), groups=self.groups, **geometry)
        if self.use_bias:
            y = add_bias(y, self.param("bias", self.bias_init, (self.features,)).astype(self.dtype))
        if self.tap_bias:
            bias = self.param("tap_bias", nn.initializers.zeros, (*taps, self.features))
            y = cast(Any, add_tap_bias(y, bias, x.shape[1:3], self.strides, padding, self.dilation))
        return y


class BatchNorm(nn.Module):
    """Batch normalisation as torch's (SyncBN's, when the batch is sharded over devices under jit).

    Training normalises with the batch's biased variance, and moves the running average by 0.1 towards the *unbiased*
    one. Running statistics are only written where the caller made `batch_stats` mutable. Statistics are float32.

    Attributes:
      frozen: the running statistics, which then stay as they are, normalise in training too, and scale and bias get no
        gradient: for weights to start from, and optimisers that do not decay norms. Likewise where training freezes
        both (`se_jax.models.frozen`).

    Raises:
      ValueError: in training with a single value a channel, whose variance means nothing.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    scale_init: Callable = nn.initializers.ones
    frozen: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.frozen or is_frozen(self, "scale", "bias"):
            train, scale, bias = False, lax.stop_gradient(scale), lax.stop_gradient(bias)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if train:
            count = x.size // x.shape[-1]
            if count == 1:
                raise ValueError(
                    f"BatchNorm {'/'.join(self.path)} got one value a channel in training (input {x.shape}); "
                    "its variance is undefined. Use a batch of at least 2 images."
                )
            form = cpu if on_cpu() else batch_norm
            normalize: Any = batch_norm.normalize_batch
            y, mean, var = normalize(x, scale, bias, self.epsilon, form.moments, form.channel_mean)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (count / (count - 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
            y = (x.astype(jnp.float32) - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm of 32 groups: [b, h, w, c] -> [b, h, w, c], in float32; c is a multiple of 32."""

    num_groups: int | None = 32
    epsilon: float = 1e-5
    use_fast_variance: bool = False


class ConvBlock(nn.Module):
    """Convolution, normalisation, activation: mmcv's ConvModule. [b, h, w, c] -> [b, h', w', features].

    Attributes:
      padding, use_bias, kernel_init, bias_init: as Conv's. epsilon, momentum, scale_init: as BatchNorm's.
      norm: 'batch', 'frozen' (BatchNorm's), 'group' (32 groups), or 'none': the convolution alone, for a norm and
        activation of the caller's.
    """

    features: int
    kernel_size: int = 3
    strides: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    activation: Callable | None = nn.relu
    norm: str = "batch"
    use_bias: bool = False
    kernel_init: Callable = kaiming_normal
    bias_init: Callable = nn.initializers.zeros
    tap_bias: bool = False
    dtype: Dtype = jnp.float32
    epsilon: float = 1e-5
    momentum: float = 0.1
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            use_bias=self.use_bias,
            tap_bias=self.tap_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        match self.norm:
            case "batch" | "frozen":
                options = {"frozen": self.norm == "frozen", "dtype": self.dtype, "name": "bn"}
                x = BatchNorm(self.epsilon, self.momentum, self.scale_init, **options)(x, train)
            case "group":
                x = cast(Any, GroupNorm(dtype=self.dtype, name="gn"))(x)
            case "none":
                return x
            case _:
                raise ValueError(f"ConvBlock norm is {self.norm!r}; expected 'batch', 'frozen', 'group' or 'none'")
        return x if self.activation is None else self.activation(x)


class SeparableConvBlock(nn.Module):
    """Depthwise block, then 1x1 block, each with BatchNorm and ReLU: mmcv's DepthwiseSeparableConvModule."""

    features: int
    kernel_size: int = 3
    dilation: int = 1
    tap_bias: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = False):
        channels = x.shape[-1]
        x = ConvBlock(
            channels,
            self.kernel_size,
            dilation=self.dilation,
            groups=channels,
            tap_bias=self.tap_bias,
            dtype=self.dtype,
            name="depthwise_conv",
        )(x, train)
        return ConvBlock(self.features, 1, dtype=self.dtype, name="pointwise_conv")(x, train)


class ChannelDropout(nn.Module):
    """torch's Dropout2d: one draw a sample and channel. Acts in training, where the caller gave a 'dropout' key."""

    rate: float

    @nn.compact
    def __call__(self, x, train: bool = False):
        active = train and self.rate > 0 and self.has_rng("dropout") and not is_frozen(self)
        return nn.Dropout(max(self.rate, 0.0), broadcast_dims=(1, 2))(x, deterministic=not active)


@jax.named_scope("resize")  # an accelerator's form is a matrix product, which counts of a network's products leave out
def resize(x: Any, size: tuple[int, int], align_corners: bool = False) -> Any:
    """Bilinear resize of [b, h, w, c] to `size` = (h', w'), as torch's interpolate: never antialiased.

    Rows and columns are resized one after the other; the dtype is kept. On a CPU rows come last: what is gathered last
    decides how the map lies, and so what reads it finds pixels of a row side by side.
    """
    for axis in (2, 1) if on_cpu() else (1, 2):
        source, length = x.shape[axis], size[axis - 1]
        if source == 1:
            x = jnp.broadcast_to(x, (*x.shape[:axis], length, *x.shape[axis + 1 :]))
        elif source != length:
            resize_axis: Any = cpu.resize_axis if on_cpu() else _resize_axis
            x = resize_axis(x, axis, length, align_corners)
    return x


def _resize_axis(x, axis: int, length: int, align_corners: bool):
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    if not align_corners:
        return jax.image.resize(x, shape, "linear", antialias=False)
    if length == 1:
        return lax.slice_in_dim(x, 0, 1, axis=axis)
    # jax.image has no align_corners; as an affine map the output's pixel centres meet the input's at both ends
    scale = (length - 1) / (x.shape[axis] - 1)
    scale, translation = jnp.array([scale]), jnp.array([0.5 - 0.5 * scale])
    return jax.image.scale_and_translate(x, shape, (axis,), scale, translation, "linear", antialias=False)


def resize_nearest(x, size: tuple[int, int]):
    """[b, h, w, c] -> [b, *size, c]: pixel i of n is pixel floor(i * h / n), as TensorFlow's and PyTorch's nearest."""
    for axis, length in zip((1, 2), size, strict=True):
        source = x.shape[axis]
        if length % source == 0:  # repeated, whose gradient is a sum; that of an index is a scatter
            x = jnp.expand_dims(x, axis + 1)
            x = jnp.broadcast_to(x, (*x.shape[: axis + 1], length // source, *x.shape[axis + 2 :]))
            x = x.reshape(*x.shape[:axis], length, *x.shape[axis + 2 :])
        else:
            x = jnp.take(x, jnp.arange(length) * source // length, axis)
    return x


def adaptive_avg_pool(x, size: int):
    """Adaptive average pooling of [b, h, w, c] to [b, size, size, c], as torch's.

    Cell i covers rows floor(i h / size) up to, not including, ceil((i + 1) h / size); cells may overlap.
    """
    if size == 1 and not on_cpu():  # there products are faster than sums
        return jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(x.dtype)

    def cells(length: int) -> np.ndarray:
        start = np.arange(size) * length // size
        stop = -(-(np.arange(size) + 1) * length // size)
        rows = np.arange(length)
        inside = (rows >= start[:, None]) & (rows < stop[:, None])
        return (inside / inside.sum(1, keepdims=True)).astype(np.float32)

    pooled = jnp.einsum(
        "sh,bhwc,tw->bstc",
        cells(x.shape[1]),
        x.astype(jnp.float32),
        cells(x.shape[2]),
        precision=lax.Precision.HIGHEST,
    )
    return pooled.astype(x.dtype)


def max_pool(x) -> Any:
    """3x3 max pooling with stride 2 and a padding of minus infinity, as behind ResNet's stem."""
    if on_cpu():
        return cpu.max_pool(x)
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=cast(Any, ((1, 1), (1, 1))))


def avg_pool_ceil(x, window: int):
    """Average pooling with stride = window; a cell cut off by the border averages what it has (torch's ceil_mode)."""
    padding: Any = [(0, -length % window) for length in x.shape[1:3]]
    return nn.avg_pool(x, (window, window), (window, window), padding=padding, count_include_pad=False)
