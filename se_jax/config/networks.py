"""Published networks with their optimisers, to be put into the config of a data set (see `se_jax.config.datasets`)."""

from typing import Any

from se_jax.config import optimizers, options
from se_jax.config.types import ConfigDict


def parse(variant: str, variants: tuple[str, ...]) -> tuple[str, int | None]:
    """What a config's argument names, encoder and crop: 'r101_769' -> ('r101', 769), 'r101' -> ('r101', None).

    Raises:
      ValueError: the argument is not among the config's `variants`; names them.
    """
    if variant not in variants:
        raise ValueError(f"the config has no variant {variant!r}; expected one of {', '.join(variants)}")
    name, _, crop = variant.rpartition("_")
    return (name, int(crop)) if crop.isdigit() else (variant, None)


def network(config: ConfigDict, encoder: dict, decoder: dict, optimizer: dict | None = None) -> ConfigDict:
    """The same config with another encoder and decoder, and with another optimiser if one is given."""
    config.model.encoder, config.model.decoder = ConfigDict(encoder), ConfigDict(decoder)
    if optimizer:
        config.optimizer = ConfigDict(optimizer)
    return config


# Heads whose published form is for an encoder of output stride 8; and other strides than 32 that heads are made for
STRIDES = {"aspp": 8, "fcn": 8, "psp": 8, "sep_aspp": 8, "dupsampling": 16}
WITH_STRIDE = {"resnet": (8, 16, 32), "xception": (8, 16, 32), "mobilenetv2": (8, 32)}
# sizes of plain vision transformers -> blocks, and how many of them have EoMT's queries
VIT_BLOCKS = {"tiny": (12, 3), "small": (12, 3), "small_plus": (12, 3), "base": (12, 3), "large": (24, 4)}
VIT_BLOCKS |= {"large_plus": (24, 4), "huge": (32, 5), "huge_plus": (32, 5), "giant": (40, 5)}
WITHOUT_AUXILIARY = ("dupsampling", "eomt", "eseg", "linear", "mask2former", "segformer", "vw_mask2former", "vwformer")


def combined(config: ConfigDict, encoder: dict, head: dict) -> ConfigDict:
    """Any encoder under any head, with the output stride, the loss and the optimiser that go with them.

    Published combinations are as their recipes have them, up to what the data set decides; the others are ours, as is a
    warm-up of at most a tenth of config.num_steps.

    Args:
      encoder, head: options of config.model's encoder and decoder, of which only the names must be given.
    """
    family, kind = encoder["name"], head["name"]
    stride = STRIDES.get(kind, 32)
    sizes = {"output_stride": max(s for s in WITH_STRIDE[family] if s <= stride)} if family in WITH_STRIDE else {}
    if family == "convnext":
        optimizer = optimizers.adamw_convnext(num_layers=6 if encoder.get("variant", "tiny") == "tiny" else 12)
    else:
        known = {family: optimizers.adamw_swin for family in ("swin", "twins", "vit")} | {
            "mit": optimizers.adamw_segformer
        }
        optimizer = known.get(family, optimizers.sgd)()
    if kind in WITHOUT_AUXILIARY:
        config.model.auxiliary = None
    if kind.endswith("mask2former"):
        config.loss.name, optimizer = "masks", optimizers.adamw_mask2former()
    if kind == "eomt":
        depth, blocks = VIT_BLOCKS[encoder.get("variant", "dinov2_small").removesuffix("_reg").split("_", 1)[-1]]
        head = {"blocks": blocks, "anneal": phases(head.get("blocks", blocks))} | head
        config.loss.name, config.model.equalizer.mode = "masks", "none"
        optimizer = optimizers.adamw_eomt(encoder.get("depth") or depth)
    elif family == "vit" and kind not in ("linear", "fcn"):
        encoder = {"pyramid": True} | encoder  # for heads that fuse levels
    optimizer["warmup_steps"] = min(optimizer["warmup_steps"], config.num_steps // 10)
    full = _defaults(options.encoder, family) | sizes | encoder, _defaults(options.decoder, kind) | head
    return network(config, *full, optimizer)


def _defaults(make, name: str) -> dict:
    """The library's options of a part; none of somebody else's."""
    return {"name": name} if ":" in name else make(name)


def cnn(config: ConfigDict, name: str, head: str) -> ConfigDict:
    """A dilated CNN, 'r50', 'r101' or 'mobilenetv2', under one of the five heads, as mmsegmentation has them.

    The FCN head resizes nothing before it fuses: no site is equalized unless equalizer.sites names its concatenation.
    """
    stride = 32 if head == "uper" else 8
    depth = {"depth": int(name[1:])} if name.startswith("r") else {}
    encoder = options.encoder("resnet" if depth else name, output_stride=stride, **depth)
    config = network(config, encoder, options.decoder(head))
    if head == "fcn":
        config.model.equalizer.mode = "none"
    return config


def swin(config: ConfigDict, name: str) -> ConfigDict:
    """Swin, 'tiny', 'small', 'base' or 'base_window12', under an UPer head, as mmsegmentation has it."""
    variant, _, window = name.partition("_window")
    sizes = {"variant": variant} | ({"window": int(window)} if window else {})
    return network(config, options.encoder("swin", **sizes), options.decoder("uper"), optimizers.adamw_swin())


def twins(config: ConfigDict, name: str) -> ConfigDict:
    """Twins, 'svt_small' to 'pcpvt_large', under an UPer head, as mmsegmentation has it."""
    return network(config, options.encoder("twins", variant=name), options.decoder("uper"), optimizers.adamw_swin())


def convnext(config: ConfigDict, name: str) -> ConfigDict:
    """ConvNeXt, 'tiny' to 'xlarge', under an UPer head, as mmsegmentation has it; but in float32, not float16."""
    rate = {"learning_rate": 8e-5} if name == "xlarge" else {}
    optimizer = optimizers.adamw_convnext(num_layers=6 if name == "tiny" else 12, **rate)
    return network(config, options.encoder("convnext", variant=name), options.decoder("uper"), optimizer)


def segformer(config: ConfigDict, name: str) -> ConfigDict:
    """SegFormer 'b0' to 'b5', as mmsegmentation has it: 160k steps, no auxiliary head."""
    config.num_steps, config.model.auxiliary = 160_000, None
    config.eval.every_steps = config.checkpoint.every_steps = 16_000
    return network(
        config, options.encoder("mit", variant=name), options.decoder("segformer"), optimizers.adamw_segformer()
    )


def hrnet(config: ConfigDict, name: str) -> ConfigDict:
    """HRNet 'w18_small', 'w18' or 'w48', under one 1x1 convolution of all four branches, as mmsegmentation has it."""
    channels = 720 if name == "w48" else 270  # those of the branches together
    fused = {"num_convs": 1, "kernel_size": 1, "concat_input": False, "resize_concat": True, "dropout": 0.0}
    config.model.auxiliary = None
    return network(config, options.encoder("hrnet", variant=name), options.decoder("fcn", channels=channels, **fused))


def dupsampling(name: str, data: str, num_classes: int) -> ConfigDict:
    """DUpsampling on 'resnet50', 'xception65' or 'xception71', at output stride 16.

    The paper's: encoders, low-level features (but Xception-71's), crop, poly schedule, 30k steps at least, no auxiliary
    head. From its FLOPs: 64 codes, 128 with Xception. DeepLab's own code's, as the paper's are not known: rates, decay,
    random scale and flip. Ours: 16 images a step, no decay on the temperature.
    """
    config = options.get_config()
    config.num_steps = 30_000
    config.data.update(name=data, batch_size=16, crop=(513, 513), cat_max_ratio=1.0, photometric=False)
    config.data.black_padding = True
    config.eval.every_steps = config.checkpoint.every_steps = 3_000
    config.model.update(num_classes=num_classes, align_corners=True)
    config.model.auxiliary = None
    if name == "resnet50":
        maps = ("conv1_3", "b3u6c3", "layer4")
        encoders = options.encoder("resnet", variant="beta", output_stride=16, outputs=maps)
    else:
        encoders = options.encoder("xception", variant=name.removeprefix("xception"), outputs=("mfb1u16c3", "map3"))
    head = {"low_level": (0, 1), "codes": 64} if name == "resnet50" else {"low_level": (0,), "codes": 128}
    optimizer = optimizers.sgd(
        learning_rate=0.007,
        min_learning_rate=0.0,
        weight_decay=1e-4 if name == "resnet50" else 4e-5,
        decay_multipliers=optimizers.FREE_TEMPERATURE,
    )
    return network(config, encoders, options.decoder("dupsampling", **head), optimizer)


def eseg(config: ConfigDict, size: str, *, batch_size: int, num_steps: int, warmup_steps: int) -> ConfigDict:
    """ESeg 's', 'm', 'l', 'lite' or 'lite0': encoder, width and repeats of the BiFPN, no auxiliary head, our recipe.

    The sizes of S, M and L are remembered, not read in the paper. They give 6.83, 19.91 and 70.30 million parameters
    and, for images of 1024x2048, 34.2, 111.2 and 341.7 GMAC, within 1.2 percent of those remembered of its table.
    'lite' has ESeg-Lite's blocks, fused and with ReLU; its sizes are ours, as the paper's are unknown to us. 'lite0' is
    the same on EfficientNet-Lite0, which is not the paper's encoder but has published weights.
    """
    encoders = {
        "s": {"variant": "b1"},
        "m": {"variant": "b4"},
        "l": {"variant": "b7"},
        "lite": {"variant": "b0", "width": 0.5, "fused": True},
        "lite0": {"variant": "lite0"},
    }
    pyramids = {"s": (96, 4), "m": (192, 5), "l": (288, 6), "lite": (64, 3), "lite0": (64, 3)}
    channels, repeats = pyramids[size]
    config.model.auxiliary, config.ema_decay, config.loss.average = None, 0.9998, "valid"
    config.num_steps, config.data.batch_size = num_steps, batch_size
    config.eval.every_steps = config.checkpoint.every_steps = num_steps // 10
    return network(
        config,
        options.encoder("efficientnet", **encoders[size]),
        options.decoder(
            "eseg", channels=channels, repeats=repeats, activation="relu" if size.startswith("lite") else "silu"
        ),
        optimizers.sgd_eseg(batch_size, warmup_steps=warmup_steps),
    )


def vwformer(config: ConfigDict, name: str, **head) -> ConfigDict:
    """VWFormer on 'convnext_tiny', 'swin_base' and the like as its authors train it, 160k steps of 16 crops.

    On 'mit_b0' to 'mit_b5' their code has no network: the recipe is SegFormer's, which is our choice.
    """
    family, _, variant = name.partition("_")
    config.num_steps, config.data.batch_size, config.model.auxiliary = 160_000, 16, None
    config.eval.update(every_steps=16_000, size_multiple=64)
    config.checkpoint.every_steps = 16_000
    families = {
        "convnext": ({"drop_path": 0.4}, optimizers.adamw_convnext(num_layers=6 if variant == "tiny" else 12)),
        "swin": ({"window": 12, "drop_path": 0.3}, optimizers.adamw_swin_layers()),
        "mit": ({}, optimizers.adamw_segformer()),
    }
    sizes, optimizer = families[family]
    return network(
        config, options.encoder(family, variant=variant, **sizes), options.decoder("vwformer", **head), optimizer
    )


def mask2former(config: ConfigDict, name: str, decoder: str = "mask2former", **head) -> ConfigDict:
    """Mask2Former on 'r50', 'r101' or 'swin_tiny' to 'swin_large', as its authors train it: 160k steps of 16 crops.

    On Cityscapes 90k. Shorter sides are drawn from a half to twice that of evaluation, in sixteen steps.
    """
    family, _, variant = name.partition("_")
    config.num_steps = 90_000 if config.data.name == "cityscapes" else 160_000
    side = min(config.data.scale)
    config.data.update(
        scale=None, short_sides=tuple(side * tenth // 10 for tenth in range(5, 21)), longest_side=4 * side
    )
    config.data.update(batch_size=16, cat_max_ratio=1.0, antialias=True, hue=(-18, 18), padding=128)
    config.eval.every_steps = config.checkpoint.every_steps = 5_000
    config.loss.name, config.model.auxiliary, config.model.dtype = "masks", None, "bfloat16"
    if family == "swin":
        window = {"window": 12} if variant in ("base", "large") else {}
        encoder = options.encoder("swin", variant=variant, **window)
    else:
        frozen = name == "r50" and config.data.name == "ade20k"  # of their CNNs this one only
        sizes = {"depth": int(name[1:]), "variant": "v1b", "output_stride": 32, "frozen_norm": frozen}
        encoder = options.encoder("resnet", **sizes)
    return network(config, encoder, options.decoder(decoder, **head), optimizers.adamw_mask2former())


def small_mask2former(config: ConfigDict, decoder: str = "mask2former", **head) -> ConfigDict:
    """Mask2Former small enough for two CPU cores: 64 channels, 20 queries, 3 + 1 layers. Ours, as is its rate."""
    sizes = {"channels": 64, "queries": 20, "layers": 3, "heads": 4, "hidden": 256}
    sizes |= {"pixel_layers": 1, "pixel_heads": 4, "pixel_hidden": 128}
    config.model.decoder = ConfigDict(options.decoder(decoder, **sizes, **head))
    config.loss.name, config.loss.masks.points, config.model.auxiliary = "masks", 512, None
    config.optimizer = ConfigDict(optimizers.adamw_mask2former(learning_rate=2e-3, rate_multipliers=()))
    return config


def eomt(config: ConfigDict, name: str) -> ConfigDict:
    """EoMT on 'dinov2_small' to 'dinov2_giant' (with registers) or 'dinov3_small' to 'dinov3_large'.

    As its authors train it on ADE20K and Cityscapes, in squares of config.data.crop: 16 crops a step, 31 epochs (107 on
    Cityscapes, 16 with DINOv3). DINOv2's patch of 14 is made one of 16. Published are the large ones; of the others the
    number of blocks. Ours is what DINOv3 has on Cityscapes: as many steps as DINOv2, the shares of ADE20K. Colours
    change as in the other recipes, not by torchvision's formulas, and validation during training is not masked.
    """
    family, _, size = name.partition("_")
    side, dinov3 = config.data.crop[0], family == "dinov3"
    depth, blocks = VIT_BLOCKS[size]
    config.num_steps = 19_795 if config.data.name == "cityscapes" else 20_208 if dinov3 else 39_153
    config.data.update(batch_size=16, scale=(side, side), cat_max_ratio=1.0, antialias=True, hue=(-9, 9))
    config.data.black_padding = True
    config.model.dtype, config.model.remat = "bfloat16", True  # theirs is float16
    config.eval.update(mode="spread", window=(side, side), scale=None, every_steps=config.num_steps // 10)
    config.checkpoint.every_steps = config.num_steps // 10
    rates: dict[str, Any] = {}
    if dinov3:
        encoder = options.encoder("vit", variant=name)
        rates = {"learning_rate": 2e-4, "layer_decay": 1.0, "warmup_steps": 2000, "second_warmup_steps": 3000}
        starts, ends = (0, 6520, 9780, 13040)[:blocks], (3000, 9780, 13040, 16300)[:blocks]
        spans = tuple((start / 20_208, end / 20_208) for start, end in zip(starts, ends, strict=True))
    else:
        encoder = options.encoder("vit", variant=f"{name}_reg", patch=16, grid=(side // 16, side // 16))
        # the authors' phases are not quite equal ones
        lengths = {"ade20k": 6520 / 39_153, "cityscapes": 3317 / 19_795}
        spans = phases(blocks, lengths.get(config.data.name) if blocks == 4 else None)
    return masks(
        config, encoder, options.decoder("eomt", blocks=blocks, anneal=spans), optimizers.adamw_eomt(depth, **rates)
    )


def phases(blocks: int, length: float | None = None) -> tuple[tuple[float, float], ...]:
    """EoMT's annealing: the masks of a block go in each phase of a run but the first one and the last.

    length: of a phase, in shares of the run; by default there are blocks + 2 equal ones.
    """
    length = 1 / (blocks + 2) if length is None else length
    return tuple(((block + 1) * length, (block + 2) * length) for block in range(blocks))


def masks(config: ConfigDict, encoder: dict, decoder: dict, optimizer: dict) -> ConfigDict:
    """EoMT's parts, with the loss of masks, and without what it has not: auxiliary head and equalizers."""
    config.loss.name, config.model.auxiliary, config.model.equalizer.mode = "masks", None, "none"
    return network(config, encoder, decoder, optimizer)


def small_eomt(config: ConfigDict, side: int, **sizes) -> ConfigDict:
    """EoMT small enough for two CPU cores, from chance, on squares of `side` pixels. Ours, as are its rates.

    sizes: of the encoder, width, depth, heads and patch.
    """
    grid = side // sizes["patch"]
    encoder = options.encoder("vit", variant="tiny", grid=(grid, grid), **sizes)
    config = masks(
        config,
        encoder,
        options.decoder("eomt", queries=20, blocks=2, anneal=phases(2)),
        optimizers.adamw_eomt(sizes["depth"], 1.0, learning_rate=2e-4, warmup_steps=50, second_stage=()),
    )
    config.loss.masks.points = 512
    config.data.update(scale=(2 * side, side), crop=(side, side), cat_max_ratio=1.0)
    config.eval.update(mode="spread", window=(side, side), scale=None)
    return config
