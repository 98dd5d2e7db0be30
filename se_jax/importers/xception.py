"""Xception, by the names of timm's xception41, xception65 and xception71."""

from se_jax.config.normalization import INCEPTION
from se_jax.importers.rules import CONV, NORM, Rule, Table


def timm(encoder) -> Table:
    """timm's names, blocks.0.stack.conv1.conv_dw; all units are numbered through.

    For output stride 8, timm's own xception71 leaves out a shortcut that its published weights have.
    """
    rules = (
        Rule("stem.{}.conv", "stem_{}/conv", CONV),
        Rule("stem.{}.bn", "stem_{}/bn", NORM),
        *(
            Rule(f"blocks.{{}}.stack.conv{{}}.{kind}_{part}", f"blocks_{{}}/conv{{}}/{kind}_{part}", leaves)
            for kind, leaves in (("conv", CONV), ("bn", NORM))
            for part in ("dw", "pw")
        ),
        Rule("blocks.{}.shortcut.conv", "blocks_{}/shortcut/conv", CONV),
        Rule("blocks.{}.shortcut.bn", "blocks_{}/shortcut/bn", NORM),
    )
    skipped = {r"head\..*": "ImageNet classifier"}
    return Table(rules, skipped, stem="stem_0/conv", normalization=INCEPTION)
