"""Decode heads: FCN (the auxiliary one too), PSP, ASPP, SepASPP and UPer, by mmsegmentation's names."""

from se_jax.importers.rules import CONV_BIAS, Rule, conv_block

RULES = (
    Rule(r"conv_seg", "conv_seg", CONV_BIAS),
    *conv_block(r"(conv_cat|bottleneck|fpn_bottleneck|c1_bottleneck)", r"\1"),
    *conv_block(r"(convs|aspp_modules|lateral_convs|fpn_convs)\.(\d+)", r"\1_\2"),
    *conv_block(r"(aspp_modules|sep_bottleneck)\.(\d+)\.(depthwise_conv|pointwise_conv)", r"\1_\2/\3"),
    *conv_block(r"psp_modules\.(\d+)\.1", r"psp_modules_\1"),  # 0 is the pooling
    *conv_block(r"image_pool\.1", "image_pool"),
)
