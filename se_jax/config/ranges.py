"""What each option may be: a table option -> range, in a small language of ranges. `se_jax.config.check` applies it."""

import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

MOST = 2**31 - 1  # steps, images: what a 32-bit counter holds
MOST_CROP = 2**26  # pixels of a crop: 0.2 GB a picture


class Range(NamedTuple):
    """What a value may be, in words, and whether one is."""

    expected: str
    holds: Callable[[Any], bool]


# ---- The language ----


def whole(low: int, high: int) -> Range:
    """A whole number, which True and 2.0 are not."""
    return Range(f"a whole number of {low:,} to {high:,}", lambda value: _is_whole(value) and low <= value <= high)


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Range:
    """A finite number. above: low itself is none; below: nor is high."""

    def holds(value) -> bool:
        known = _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
        return known and low <= value <= high and not (above and value == low) and not (below and value == high)

    least, most = "above" if above else "of at least", "below" if below else "at most"
    return Range(f"a number {least} {low:g} and {most} {high:g}", holds)


def one_of(*names: str) -> Range:
    """One of some names."""
    return Range(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def part(*names: str) -> Range:
    """The name of a part: of the library's, or of one that can be imported."""
    known = one_of(*names)
    return Range(
        f"{known.expected}, or 'package.module:attribute' of your own",
        lambda value: known.holds(value) or (isinstance(value, str) and ":" in value),
    )


def several(each: Range, low: int = 0, high: int = 1000, *, distinct: bool = False) -> Range:
    """A sequence of `low` to `high` values. distinct: no two are equal."""

    def holds(value) -> bool:
        return (
            isinstance(value, (tuple, list))
            and low <= len(value) <= high
            and all(map(each.holds, value))
            and not (distinct and len(set(value)) < len(value))
        )

    count = f"{low}" if low == high else f"{low} or more" if high >= 1000 else f"{low} to {high}"
    return Range(f"a sequence of {count}{' different' if distinct else ''} values, each {each.expected}", holds)


def optional(given: Range) -> Range:
    """None, or what else it may be."""
    return Range(f"None or {given.expected}", lambda value: value is None or given.holds(value))


def size(order: str) -> Range:
    """Two sides in pixels."""
    side = whole(1, MOST_CROP)

    def holds(value) -> bool:
        pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(side.holds, value))
        return pair and value[0] * value[1] <= MOST_CROP

    return Range(f"two positive whole numbers {order} whose product is at most {MOST_CROP:,}", holds)


def span(each: Range) -> Range:
    """Two values, the second no smaller."""
    pair = several(each, 2, 2)
    return Range(
        f"{pair.expected}, the second no smaller than the first",
        lambda value: pair.holds(value) and value[0] <= value[1],
    )


def normalization() -> Range:
    """(mean, std) of three colours."""
    mean, std = several(number(0, 255), 3, 3), several(number(0, 255, above=True), 3, 3)

    def holds(value) -> bool:
        return isinstance(value, (tuple, list)) and len(value) == 2 and mean.holds(value[0]) and std.holds(value[1])

    return Range("((mean of red, green, blue), (std of red, green, blue)) on the scale of 0 to 255, std above 0", holds)


def _is_whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_multiplier(value) -> bool:
    if not (isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str)):
        return False
    try:
        re.compile(value[0])
    except re.error:
        return False
    return number(0, 1e6).holds(value[1])


def _is_pattern(value) -> bool:
    return _is_multiplier((value, 1.0))


ANYTHING = Range("anything", lambda value: True)
FLAG = Range("True or False", lambda value: isinstance(value, bool))
TEXT = Range("text", lambda value: isinstance(value, str))
NAMES = Range(
    "names with commas between them, or a sequence of names",
    lambda value: isinstance(value, str) or several(TEXT).holds(value),
)
PATTERN = Range("a regular expression, e.g. '^encoder/'", _is_pattern)
STEPS = whole(1, MOST)
RATE = number(0, 1, below=True)  # of dropped channels or paths
SHARE = number(0, 1)
FACTOR = number(0, 1e6)
WIDTH = whole(1, 16_384)
MULTIPLE = number(0, 100, above=True)  # of a published width or depth
STAGES = 4
INDEX = whole(0, 63)  # of one of the encoder's maps
# (pattern found in the parameter's path, multiplier)
MULTIPLIERS = several(
    Range("(regular expression, number), e.g. ('^decoder/', 10.0), the number of at least 0", _is_multiplier)
)

# ---- The table ----

OPTIONS = {
    "seed": whole(0, 2**32 - 1),
    "num_steps": STEPS,
    "accumulate": whole(1, 2**20),
    "ema_decay": RATE,
    "init_from": TEXT,
    "init_skip": NAMES,
    "constants_from": TEXT,
    "multihost": FLAG,
    "multihost_timeout": whole(5, 86_400),
    "mesh.model": whole(1, 2**20),
    "mesh.fsdp": FLAG,
    "optimizer.name": one_of("sgd", "adamw"),
    "optimizer.learning_rate": number(0, 1e30, above=True),
    "optimizer.min_learning_rate": number(0, 1e30),
    "optimizer.schedule": one_of("poly", "poly_open", "cosine", "step", "one_cycle", "two_stage"),
    "optimizer.power": number(0, 100),
    "optimizer.milestones": several(whole(1, MOST), distinct=True),
    "optimizer.milestone_factor": number(0, 1, above=True),
    "optimizer.warmup_steps": whole(0, MOST),
    "optimizer.warmup": one_of("linear", "constant", "exponential"),
    "optimizer.warmup_factor": number(0, 1, above=True),
    "optimizer.second_stage": several(PATTERN),
    "optimizer.second_warmup_steps": whole(0, MOST),
    "optimizer.momentum": RATE,
    "optimizer.nesterov": FLAG,
    "optimizer.weight_decay": FACTOR,
    "optimizer.clip_norm": FACTOR,
    "optimizer.rate_multipliers": MULTIPLIERS,
    "optimizer.decay_multipliers": MULTIPLIERS,
    "optimizer.freeze": several(PATTERN),
    "loss.name": part("cross_entropy", "codes", "masks"),
    "loss.average": one_of("valid", "all"),
    "loss.auxiliary_weight": FACTOR,
    "loss.class_weights": several(FACTOR),
    "loss.label_smoothing": number(0, 1, below=True),
    "loss.ohem.min_kept": whole(0, MOST),
    "loss.ohem.threshold": optional(SHARE),
    "loss.masks.targets": optional(whole(1, 255)),
    "loss.masks.points": whole(16, 2**20),
    "loss.masks.no_object": FACTOR,
    "calibration.max_images": optional(whole(1, MOST)),
    "calibration.check_images": whole(0, MOST),
    "eval.every_steps": STEPS,
    "eval.batch_size": whole(1, 2**20),
    "eval.scale": optional(size("(width, height)")),
    "eval.size_multiple": whole(1, 4096),
    "eval.mode": one_of("whole", "slide", "spread"),
    "eval.window": optional(size("(height, width)")),
    "eval.stride": optional(size("(height, width)")),
    "eval.tta": FLAG,
    "checkpoint.every_steps": STEPS,
    "checkpoint.keep": whole(1, MOST),
    "checkpoint.best": TEXT,
    "log.every_steps": STEPS,
    # data_pipelines, which can be used without se_jax, refuses the same by itself
    "data.name": part("shapes", "folder", "ade20k", "voc2012", "cityscapes", "pascal_context", "pascal_context_60"),
    "data.batch_size": whole(1, 2**20),
    "data.on_error": one_of("stop", "skip"),
    "data.max_pixels": whole(1, 178_000_000),
    "data.image_bits": whole(8, 16),
    "data.cache": FLAG,
    "data.scale": optional(size("(width, height)")),
    "data.ratio_range": several(number(0.01, 100), 2, 2),
    "data.short_sides": several(whole(1, 65_536)),
    "data.longest_side": optional(whole(1, 65_536)),
    "data.antialias": FLAG,
    "data.hue": span(whole(-90, 90)),
    "data.padding": optional(whole(0, 255)),
    "data.crop": size("(height, width)"),
    "data.cat_max_ratio": number(0, 1, above=True),
    "data.flip": SHARE,
    "data.photometric": FLAG,
    "data.rotate": number(0, 180),
    "data.flip_vertical": SHARE,
    "data.grey": SHARE,
    "data.blur": SHARE,
    "data.cutout": SHARE,
    "data.cutout_size": SHARE,
    "data.cutmix": SHARE,
    "data.classmix": SHARE,
    "data.black_padding": FLAG,
    "data.dir": TEXT,
    "data.train_split": optional(TEXT),
    "data.val_split": optional(TEXT),
    "data.image_dir": TEXT,
    "data.label_dir": TEXT,
    "data.train_dirs": optional(several(TEXT, 2, 2)),
    "data.val_dirs": optional(several(TEXT, 2, 2)),
    "data.image_size": size("(height, width)"),
    "data.num_train": whole(1, MOST),
    "data.num_val": whole(1, MOST),
    "model.num_classes": whole(1, 255),  # labels are bytes, of which 255 is ignored
    "model.dtype": one_of("float32", "bfloat16"),
    "model.remat": FLAG,
    "model.normalization": optional(normalization()),
    "model.align_corners": FLAG,
    "model.equalizer.mode": one_of("none", "explicit", "folded"),
    "model.equalizer.statistics": one_of("global", "channel"),
    "model.equalizer.sites": NAMES,
}

# Fields of the library's encoders and decoders. What only a class knows, such as its variants, it says itself.
_WIDTHS, _DEPTHS = several(WIDTH, STAGES, STAGES), several(whole(1, 1000), STAGES, STAGES)
_REDUCTIONS = several(whole(1, 64), STAGES, STAGES)
_STRIDE = whole(1, 32)
_OUTPUTS = several(TEXT, 1, 64)
_UNITS = several(several(WIDTH, 3, 3), 2, 2)
ENCODERS = {
    "convnext": {
        "variant": TEXT,
        "widths": optional(_WIDTHS),
        "depths": optional(_DEPTHS),
        "drop_path": optional(RATE),
    },
    "efficientnet": {
        "variant": TEXT,
        "width": optional(MULTIPLE),
        "depth": optional(MULTIPLE),
        "drop_path": optional(RATE),
        "fused": FLAG,
        "padding": TEXT,
        "epsilon": optional(number(0, 1, above=True)),
        "momentum": number(0, 1, above=True),
    },
    "hrnet": {
        "variant": TEXT,
        "width": optional(WIDTH),
        "layer1_blocks": optional(whole(1, 1000)),
        "layer1_width": optional(WIDTH),
        "modules": optional(several(whole(1, 1000), 3, 3)),
        "blocks": optional(whole(1, 1000)),
    },
    "mit": {
        "variant": TEXT,
        "width": optional(WIDTH),
        "depths": optional(_DEPTHS),
        "heads": optional(_WIDTHS),
        "mlp_ratio": optional(whole(1, 64)),
        "reductions": optional(_REDUCTIONS),
        "drop_path": optional(RATE),
    },
    "mobilenetv2": {"width": MULTIPLE, "output_stride": _STRIDE},
    "resnet": {
        "depth": whole(1, 1000),
        "variant": TEXT,
        "output_stride": _STRIDE,
        "width": WIDTH,
        "multi_grid": optional(several(whole(1, 64), 1, 64)),
        "outputs": _OUTPUTS,
        "frozen_norm": FLAG,
    },
    "swin": {
        "variant": TEXT,
        "width": optional(WIDTH),
        "depths": optional(_DEPTHS),
        "heads": optional(_WIDTHS),
        "window": optional(whole(1, 64)),
        "mlp_ratio": optional(whole(1, 64)),
        "drop_path": optional(RATE),
    },
    "twins": {
        "variant": TEXT,
        "widths": optional(_WIDTHS),
        "depths": optional(_DEPTHS),
        "heads": optional(_WIDTHS),
        "mlp_ratios": optional(_REDUCTIONS),
        "reductions": optional(_REDUCTIONS),
        "window": optional(whole(1, 64)),
        "drop_path": optional(RATE),
    },
    "vit": {
        "variant": TEXT,
        "width": optional(WIDTH),
        "depth": optional(whole(1, 1000)),
        "heads": optional(WIDTH),
        "patch": optional(whole(1, 256)),
        "mlp_ratio": optional(MULTIPLE),
        "gated": optional(FLAG),
        "registers": optional(whole(0, 1000)),
        "rotary": optional(FLAG),
        "size": optional(whole(1, 65_536)),
        "antialias": optional(FLAG),
        "offset": optional(number(0, 1)),
        "key_bias": optional(FLAG),
        "epsilon": optional(number(0, 1, above=True)),
        "layer_scale": optional(SHARE),
        "grid": optional(several(whole(1, 4096), 2, 2)),
        "outputs": optional(several(whole(0, 999), 1, 64)),
        "pyramid": FLAG,
        "rescale": number(1, 100),
        "drop_path": RATE,
    },
    "xception": {
        "variant": TEXT,
        "output_stride": _STRIDE,
        "multi_grid": optional(several(whole(1, 64), 3, 3)),
        "entry": optional(several(several(WIDTH, 2, 2), 3, 64)),
        "middle": optional(whole(1, 1000)),
        "exit": optional(_UNITS),
        "outputs": _OUTPUTS,
    },
}
_HEAD = {"channels": WIDTH, "dropout": RATE}
_DILATIONS = several(whole(1, 1024), 1, 64, distinct=True)
_KERNEL = Range("an odd whole number of 1 to 63", lambda value: whole(1, 63).holds(value) and value % 2 == 1)
_POOLS = several(whole(1, 1024), 1, 64, distinct=True)
_BLOCKS = whole(1, 10)
_QUERIES = {
    "mask_channels": optional(WIDTH),
    "queries": whole(1, 4096),
    "layers": whole(1, 100),
    "heads": whole(1, 1024),
    "hidden": WIDTH,
    "pixel_layers": whole(0, 100),
    "pixel_heads": whole(1, 1024),
    "pixel_points": whole(1, 64),
    "pixel_hidden": WIDTH,
}
DECODERS = {
    "aspp": {"in_index": INDEX, "dilations": _DILATIONS},
    "dupsampling": {
        "codes": WIDTH,
        "ratio": _STRIDE,
        "low_level": several(INDEX),
        "low_channels": WIDTH,
        "dilations": _DILATIONS,
    },
    "eomt": {
        "queries": whole(1, 4096),
        "blocks": whole(1, 1000),
        "upscales": optional(whole(0, 8)),
        "anneal": several(several(SHARE, 2, 2), 0, 1000),
    },
    "eseg": {
        "repeats": whole(1, 1000),
        "top_level": whole(1, 24),
        "fusion": TEXT,
        "upsample": TEXT,
        "downsample": TEXT,
        "activation": TEXT,
        "momentum": number(0, 1, above=True),
    },
    "fcn": {
        "in_index": INDEX,
        "num_convs": whole(0, 1000),
        "kernel_size": _KERNEL,
        "dilation": whole(1, 1024),
        "concat_input": FLAG,
        "resize_concat": FLAG,
    },
    "fpn": {"segmentation_channels": WIDTH},
    "linknet": {"blocks": _BLOCKS},
    "linear": {},
    "mask2former": _QUERIES,
    "psp": {"in_index": INDEX, "pool_scales": _POOLS},
    "segformer": {},
    "sep_aspp": {
        "in_index": INDEX,
        "dilations": _DILATIONS,
        "c1_channels": whole(0, 16_384),
        "c1_index": INDEX,
        "bottleneck_size": _KERNEL,
        "dense": FLAG,
    },
    "unet": {"blocks": _BLOCKS, "upsample": one_of("nearest", "bilinear")},
    "uper": {"pool_scales": _POOLS},
    "vw_mask2former": _QUERIES | {"variant": TEXT, "vw_channels": WIDTH, "vw_heads": WIDTH, "low_channels": WIDTH},
    "vwformer": {
        "variant": TEXT,
        "channels": optional(WIDTH),
        "c1_channels": optional(WIDTH),
        "heads": optional(WIDTH),
        "image_pool": optional(FLAG),
        "shortcut": optional(FLAG),
    },
}
DECODERS = {name: _HEAD | fields for name, fields in DECODERS.items()}
# config.losses: options of each loss beside its weight; 'cross_entropy' has those of config.loss
_ACTIVATION = one_of("softmax", "sigmoid")
_REGION = {"alpha": FACTOR, "beta": FACTOR, "smooth": FACTOR, "activation": _ACTIVATION}
_FOCAL = {"gamma": number(0, 100), "alpha": optional(SHARE), "activation": _ACTIVATION}
_AVERAGE = {"average": one_of("valid", "all")}
LOSSES = {
    "binary_cross_entropy": _AVERAGE | {"alpha": optional(SHARE)},
    "cross_entropy": {},
    "dice": {"smooth": FACTOR, "activation": _ACTIVATION},
    "focal": _AVERAGE | _FOCAL,
    "lovasz": {},
    "tversky": _REGION,
}
LOSSES = {name: {"weight": FACTOR} | fields for name, fields in LOSSES.items()}
# config.model's parts, and which names they may have
PARTS = {"encoder": ENCODERS, "decoder": DECODERS, "auxiliary": {"fcn": DECODERS["fcn"]}}
# What a decoder of somebody else's has of `se_jax.Decoder`
OWN = {"encoder": {}, "decoder": _HEAD, "auxiliary": _HEAD}


def of_type(kind) -> Range:
    """The range of a dataclass field of that type: all that is known of the fields of somebody else's part."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is int:
        return whole(-MOST, MOST)
    if kind is float:
        return number(-1e30, 1e30)
    if kind in (bool, str):
        return FLAG if kind is bool else TEXT
    if kind is tuple or origin is tuple:
        return several(of_type(inner[0])) if len(inner) == 2 and inner[1] is Ellipsis else several(ANYTHING)
    if origin in (typing.Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
        return optional(of_type(next(each for each in inner if each is not type(None))))
    return ANYTHING
