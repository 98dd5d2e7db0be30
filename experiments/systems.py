"""What DUpsampling, ESeg, VWFormer, Mask2Former and EoMT cost beside the networks that they are compared with.

python -m experiments.systems [--only=dupsampling,eseg,vwformer,mask2former,eomt]

Parameters and multiply-adds of one image, counted from shapes (nothing is run), and their share of the first network of
each table. `decoder` is what follows the encoder, without DeepLab's atrous pyramid, which DUpsampling's paper counts as
part of the encoder; where it fits (GFLOP 1.15 of 5.53), twice its multiply-adds are that paper's FLOPs but for biases.

Of Mask2Former the published code's work is counted, with what ours saves (`uncounted`), so that the numbers can be
compared with those of papers.
"""

import argparse
from typing import NamedTuple

from experiments import counts
from se_jax.config import recipes
from se_jax.models import (
    DUpsamplingHead,
    EoMTHead,
    Mask2FormerHead,
    ResNet,
    Segmenter,
    SepASPPHead,
    Swin,
    UPerHead,
    ViT,
    VWFormerHead,
    VWMask2FormerHead,
    Xception,
    build,
)
from se_jax.models.varying_window import WINDOWS, context_table

DEEPLAB = (DUpsamplingHead, SepASPPHead)  # heads that begin with an atrous pyramid,
PYRAMID = ("aspp_modules", "image_pool", "bottleneck")  # which is made of these modules


class Row(NamedTuple):
    """One network: its name, and how to make it."""

    name: str
    model: Segmenter


class Table(NamedTuple):
    """Networks for images of one size; shares are of the first."""

    title: str
    size: tuple[int, int]
    rows: list[Row]


def from_config(file: str, variant: str, **decoder) -> Row:
    """The network of a recipe, with changes of its decoder."""
    config = recipes.load(f"{file}:{variant}")
    config.model.decoder.update(decoder)
    changes = "".join(f", {key}={value}" for key, value in decoder.items())
    return Row(f"{file}.py:{variant}{changes}", build(config.model))


def deeplab(encoder, num_classes: int) -> Row:
    """DeepLabv3+ as its own code builds it, on an encoder whose first map has stride 4 and whose last is deepest."""
    rates = {8: 12, 16: 6}[encoder.output_stride]
    head = SepASPPHead(
        num_classes,
        channels=256,
        in_index=len(encoder.channels) - 1,
        dilations=(1, rates, 2 * rates, 3 * rates),
        bottleneck_size=1,
    )
    family = f"{type(encoder).__name__}-{getattr(encoder, 'depth', encoder.variant)}"
    return Row(f"DeepLabv3+, {family}, output stride {encoder.output_stride}", Segmenter(encoder, head))


def dupsampling() -> list[Table]:
    """Against DeepLabv3+ of the same and of half the output stride, PASCAL VOC at 513x513."""

    def beta(stride):
        return deeplab(ResNet(50, "beta", stride, outputs=("b1u2c3", "layer4")), 21)

    def xception(stride):
        return deeplab(Xception("65", output_stride=stride, outputs=("efb2u1c2", "map3")), 21)

    small = [
        from_config("voc2012_dupsampling", "resnet50"),
        from_config("voc2012_dupsampling", "resnet50", low_level=(0,)),
        from_config("voc2012_dupsampling", "resnet50", low_level=()),
    ]
    large = [from_config("voc2012_dupsampling", "xception65")]
    return [
        Table("DUpsampling on ResNet-50", (513, 513), [beta(16), *small]),
        Table("the same beside output stride 8", (513, 513), [beta(8), *small]),
        Table("DUpsampling on Xception-65", (513, 513), [xception(16), *large]),
        Table("the same beside output stride 8", (513, 513), [xception(8), *large]),
    ]


def eseg() -> list[Table]:
    """Against DeepLabv3+ on Xception-65, Cityscapes at full size."""
    sizes = [from_config("cityscapes_eseg", size) for size in "sml"]
    return [
        Table(
            f"ESeg beside output stride {stride}",
            (1024, 2048),
            [deeplab(Xception("65", output_stride=stride), 19), *sizes],
        )
        for stride in (16, 8)
    ]


def vwformer() -> list[Table]:
    """Against UPerNet on the same encoders, at the size of the crops of the ADE20K recipes."""
    pairs = {512: {f"convnext_{size}": ("convnext", size) for size in ("tiny", "small")}}
    pairs[640] = {f"convnext_{size}_640": ("convnext", f"{size}_640") for size in ("base", "large", "xlarge")}
    pairs[640]["swin_base_640"] = ("swin", "base_window12")
    return [
        Table(
            "VWFormer beside UPerNet",
            (size, size),
            [from_config(f"ade20k_{family}_uper", peer), from_config("ade20k_vwformer", variant)],
        )
        for size, variants in pairs.items()
        for variant, (family, peer) in variants.items()
    ]


def mask2former() -> list[Table]:
    """Against UPerNet and VWFormer on the same encoders, and what the two variants with VWFormer's windows add.

    The abstract of VWFormer's paper says that it improves Mask2Former "with an extra overhead of ~10G FLOPs". Neither
    variant of the authors' code has that: on Swin-T at 512x512, a costs 5.4 GMAC less than the plain network, b 17.5
    more.
    """

    def heads(classes: int) -> dict:
        a, b = (VWMask2FormerHead(classes, variant=variant) for variant in "ab")
        return {"Mask2Former": Mask2FormerHead(classes), "with windows, a": a, "with windows, b": b}

    others = {"UPerNet": UPerHead(150), "VWFormer": VWFormerHead(150, variant="ade")}
    swins = {"Swin-T": (Swin("tiny"), 512), "Swin-S": (Swin("small"), 512)}
    swins |= {f"Swin-{size[0].upper()}": (Swin(size, window=12), 640) for size in ("base", "large")}
    resnets = {f"ResNet-{depth}": (ResNet(depth, "v1b", output_stride=32), 512) for depth in (50, 101)}
    return [
        Table(
            f"Mask2Former on {name}, ADE20K",
            (size, size),
            [Row(head, Segmenter(encoder, module)) for head, module in (heads(150) | more).items()],
        )
        for encoders, more in ((swins, others), (resnets, {}))
        for name, (encoder, size) in encoders.items()
    ] + [
        Table(
            f"Mask2Former on {name}, Cityscapes",
            (512, 1024),
            [Row(head, Segmenter(encoder, module)) for head, module in heads(19).items()],
        )
        for name, encoder in (("Swin-T", Swin("tiny")), ("ResNet-50", resnets["ResNet-50"][0]))
    ]


def eomt() -> list[Table]:
    """Beside an UPer head that fuses a pyramid made of the same encoder, as in a test: the last prediction only."""
    tables = []
    for size, blocks in {"small": 3, "base": 3, "large": 4}.items():
        for classes, side in ((150, 512), (19, 1024)):
            encoder = ViT(f"dinov2_{size}_reg", patch=16, grid=(side // 16, side // 16))
            rows = [Row(f"EoMT, DINOv2 {size}", Segmenter(encoder, EoMTHead(classes, blocks=blocks)))]
            rows.append(Row("UPerNet on a pyramid", Segmenter(encoder.clone(pyramid=True), UPerHead(classes))))
            tables.append(Table(f"EoMT on DINOv2 {size}, {classes} classes", (side, side), rows))
    return tables


SYSTEMS = {
    "dupsampling": dupsampling,
    "eseg": eseg,
    "vwformer": vwformer,
    "mask2former": mask2former,
    "eomt": eomt,
}


def uncounted(head, size: tuple[int, int]) -> int:
    """Multiply-adds of Mask2Former as its authors' code computes it that are not among our program's products.

    Whole masks of every prediction, where ours has them at the size that attention needs; bilinear samples, of 5
    multiply-adds a channel, which are no products; keys and values of windows that share a context, which ours computes
    once.
    """
    if not isinstance(head, Mask2FormerHead):
        return 0
    pixels = [size[0] // stride * (size[1] // stride) for stride in (32, 16, 8)]
    product = head.queries * (head.mask_channels or head.channels)
    masks = (head.layers + 1) * size[0] // 4 * (size[1] // 4) - sum(pixels[i % 3] for i in range(head.layers))
    total = masks * product
    windows = isinstance(head, VWMask2FormerHead)
    if not windows or head.variant == "b":
        total += head.pixel_layers * sum(pixels) * len(pixels) * head.pixel_points * head.channels * 5
    if windows:
        sides = [length // 8 for length in size]
        for ratio in (2, 4, 8):
            computed = [len(context_table(side, ratio)) for side in sides]
            total += 2 * pixels[-1] * head.vw_channels**2 * (1 - computed[0] * computed[1] / WINDOWS**2)
    return round(total)


def count(row: Row, size: tuple[int, int]) -> dict[str, float]:
    """Millions of parameters, and GMAC of the whole network and of its decoder; auxiliary heads do not count."""
    model = row.model.clone(auxiliary=None)
    of_modules = counts.multiply_adds_by_module(model, counts.image(*size))
    pyramid = PYRAMID if isinstance(model.decoder, DEEPLAB) else ()
    decoder = sum(
        number
        for path, number in of_modules.items()
        if path.startswith("Segmenter/decoder/") and not path.split("/")[2].startswith(pyramid)
    )
    more = uncounted(model.decoder, size)
    millions = counts.parameters(model, counts.image(*size)) / 1e6
    return {"parameters": millions, "decoder": (decoder + more) / 1e9, "whole": (of_modules.total() + more) / 1e9}


def show(table: Table, write=print) -> None:
    """Writes one table, in Markdown."""
    write(f"\n{table.title}, {table.size[0]}x{table.size[1]}\n")
    write("| network | parameters, M | decoder, GMAC | whole, GMAC |\n| --- | --- | --- | --- |")
    first = None
    for row in table.rows:
        found = count(row, table.size)
        first = first or found
        cells = (f"{value:.2f} ({value / first[key]:.1%})" for key, value in found.items())
        write(f"| {row.name} | {' | '.join(cells)} |")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.systems", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(SYSTEMS), help="systems, separated by commas")
    names = parser.parse_args(arguments).only.split(",")
    if unknown := set(names) - set(SYSTEMS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; expected some of {', '.join(SYSTEMS)}")
    for name in names:
        for table in SYSTEMS[name]():
            show(table, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
