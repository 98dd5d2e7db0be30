"""Every decode head, the auxiliary one too, by the names of mmsegmentation or of the authors' own version of it."""

from se_jax.importers.rules import CONV, IN_PROJ, LINEAR, LINEAR_AS_CONV, NORM, Rule, Table, conv_block, parameter

# ESeg's modules; nobody else has such a head, so they keep our names
_WEIGHTS = (parameter("softmax_weights", "softmax_weights"), parameter("fast_weights", "fast_weights"))
ESEG = {
    **{f"bifpn/resample_{{}}_{{}}/{part}": CONV if part == "conv" else NORM for part in ("conv", "bn")},
    **{
        f"{op}/{part}": NORM if part == "bn" else CONV
        for op in ("bifpn/node_{}_{}", "sep_conv")
        for part in ("depthwise", "pointwise", "bn")
    },
    **dict.fromkeys(("bifpn/topdown_{}_{}", "bifpn/bottomup_{}_{}", "sum"), _WEIGHTS),
}
# VWFormer's modules, in the authors' repository (yan-hao-tian/VW), whose encoders have mmsegmentation's names
VWFORMER = (
    *(rule for name in ("linear_fuse", "short_path", "cat", "low_level_fuse") for rule in conv_block(name, name)),
    Rule("linear_c{}.proj", "linear_c{}", LINEAR),  # for ADE20K
    *conv_block("linear_c{}", "linear_c{}"),  # for Cityscapes
    *conv_block("ds.{}", "attn_{}/ds"),
    *(Rule(f"attn.{{}}.{name}.conv", f"attn_{{}}/{name}", CONV) for name in ("theta", "phi", "g")),
    *conv_block("attn.{}.conv_out", "attn_{}/conv_out"),
    Rule("attn.{}", "attn_{}/in_proj", IN_PROJ),
    Rule("attn.{}.out_proj", "attn_{}/out_proj", LINEAR),
)
# DUpsampling's; its decoder of label patches is a 1x1 convolution with a bias
_PATCHES = tuple(leaf._replace(collection="dupsampling") for leaf in LINEAR_AS_CONV)
DUPSAMPLING = (
    Rule("code", "code", CONV),
    Rule("dupsample", "dupsample", (*_PATCHES, parameter("log_temperature", "log_temperature"))),
    *conv_block("low_bottleneck.{}", "low_bottleneck_{}"),
)


def mmseg(head) -> Table:
    """One table for all heads: names that two of them share mean the same."""
    return Table(
        (
            Rule("conv_seg", "conv_seg", CONV),
            Rule("bn", "bn", NORM),
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
            *(Rule(name.replace("/", "."), name, leaves) for name, leaves in ESEG.items()),
            *VWFORMER,
            *DUPSAMPLING,
        )
    )
