"""Every decode head, the auxiliary one too, by mmsegmentation's names."""

from se_jax.importers.rules import CONV, Rule, Table, conv_block


def mmseg(head) -> Table:
    """One table for all heads: names that two of them share mean the same."""
    return Table(
        (
            Rule("conv_seg", "conv_seg", CONV),
            *(
                rule
                for name in ("conv_cat", "bottleneck", "fpn_bottleneck", "c1_bottleneck", "fusion_conv")
                for rule in conv_block(name, name)
            ),
            *(
                rule
                for name in ("convs", "aspp_modules", "lateral_convs", "fpn_convs")
                for rule in conv_block(name + ".{}", name + "_{}")
            ),
            *(
                rule
                for name in ("aspp_modules", "sep_bottleneck")
                for part in ("depthwise_conv", "pointwise_conv")
                for rule in conv_block(f"{name}.{{}}.{part}", f"{name}_{{}}/{part}")
            ),
            *conv_block("psp_modules.{}.1", "psp_modules_{}"),  # 0 is the pooling
            *conv_block("image_pool.1", "image_pool"),
        )
    )
