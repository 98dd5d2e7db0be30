"""What DUpsampling, ESeg and VWFormer cost beside the networks that they are compared with.

python -m experiments.systems [--only=dupsampling,eseg,vwformer]

Parameters and multiply-adds of one image, counted from shapes (nothing is run), and their share of the first network of
each table. `decoder` is what follows the encoder, without DeepLab's atrous pyramid, which DUpsampling's paper counts as
part of the encoder; where it fits (GFLOP 1.15 of 5.53), twice its multiply-adds are that paper's FLOPs but for biases.
"""

import argparse
from typing import NamedTuple

from experiments import counts
from se_jax.config import recipes
from se_jax.models import DUpsamplingHead, ResNet, Segmenter, SepASPPHead, Xception, build

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


SYSTEMS = {"dupsampling": dupsampling, "eseg": eseg, "vwformer": vwformer}


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
    millions = counts.parameters(model, counts.image(*size)) / 1e6
    return {"parameters": millions, "decoder": decoder / 1e9, "whole": of_modules.total() / 1e9}


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
