"""The table of encoders: parameters, and multiply-adds of a 512 x 512 image, of every published size.

For encoders of patches that do not divide it, of the next larger image that they divide.

python -m experiments.encoders [--size=512] [--only=swin,mit]

Multiply-adds are those of convolutions and matrix products (attention's included, elementwise work not), counted in the
program as it is traced for an accelerator; nothing is run.
"""

import argparse
import sys

from experiments.counts import image, multiply_adds, parameters
from se_jax.importers import tables
from se_jax.models import ENCODERS

# sizes of the families that have no variants by name
OPTIONS = {
    "mobilenetv2": [{"width": 1.0, "output_stride": 8}, {"width": 1.0, "output_stride": 32}],
    "resnet": [{"depth": depth, "output_stride": stride} for depth in (18, 34, 50, 101) for stride in (8, 32)],
    "swin": [{"variant": "tiny"}, {"variant": "small"}, *({"variant": "base", "window": w} for w in (7, 12))]
    + [{"variant": "large", "window": 12}],
    "xception": [{"variant": v, "output_stride": 16} for v in ("65", "71")],
}


def published(name: str) -> list[dict]:
    """Options of every published size of a family."""
    variants = getattr(sys.modules[ENCODERS[name].__module__], "VARIANTS", {})
    return OPTIONS.get(name) or [{"variant": variant} for variant in variants]


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.encoders", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="height and width of the image")
    parser.add_argument("--only", default=",".join(ENCODERS), help="families, separated by commas")
    flags = parser.parse_args(arguments)
    families = flags.only.split(",")
    if unknown := set(families) - set(ENCODERS):
        parser.error(f"--only names {', '.join(sorted(unknown))}; expected some of {', '.join(ENCODERS)}")
    print(f"| encoder | parameters, M | GMAC at {flags.size} x {flags.size} | layouts |\n| --- | --- | --- | --- |")
    for name in families:
        for options in published(name):
            encoder = ENCODERS[name](**options)
            side = -(-flags.size // (unit := getattr(encoder, "size_multiple", 1))) * unit  # whole patches
            images = image(side, side)
            text = ", ".join(str(value) if key == "variant" else f"{key} {value}" for key, value in options.items())
            counts = f"{parameters(encoder, images) / 1e6:.2f} | {multiply_adds(encoder, images) / 1e9:.1f}"
            print(
                f"| {ENCODERS[name].__name__} {text} | {counts} | {', '.join(tables.tables_of(encoder))} |", flush=True
            )


if __name__ == "__main__":
    main()
