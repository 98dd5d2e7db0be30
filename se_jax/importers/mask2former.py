"""Mask2FormerHead and VWMask2FormerHead, by the names of mmsegmentation, of the authors' repositories (detectron2), and
of transformers.

Names of VWMask2FormerHead's pixel decoder are the authors' (yan-hao-tian/VW), whatever the layout. Its shared norm is
in a checkpoint under the names of all convolutions before it; it is read from, and written to, one of them.
"""

from se_jax.importers.rules import CONV, IN_PROJ, LAYER_NORM, LINEAR, NORM, Rule, Table, parameter

_PIXEL = "pixel_decoder/"
_ENCODER = _PIXEL + "encoder/"
_WINDOWS = _PIXEL + "windows/"
_LAYER = "query_decoder/layers_{}/"
_PREDICTIONS = "query_decoder/predictions/"
_ATTENTION = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_SHARED = r"pixel_decoder\.(linear_c[23]|linear_fuse|short_path_0|cat_0|image_pool_0\.1)\.norm\.(weight|bias)"
_SKIPPED = {_SHARED: "the norm of pixel_decoder.linear_c4, which many convolutions share"}


def mmseg(head) -> Table:
    """mmdet's names, which mmsegmentation's networks have below `decode_head.`."""
    pixel, encoder, layer = "pixel_decoder.", "pixel_decoder.encoder.layers.{}.", "transformer_decoder.layers.{}."
    rules = (
        Rule(pixel + "input_convs.{}.conv", _ENCODER + "input_convs_{}/conv", CONV),
        Rule(pixel + "input_convs.{}.gn", _ENCODER + "input_convs_{}/gn", LAYER_NORM),
        *_embedding(pixel + "level_encoding", _ENCODER, "level_encoding", "weight"),
        *(Rule(encoder + "self_attn." + x, _ENCODER + "layers_{}/self_attn/" + x, LINEAR) for x in _ATTENTION),
        *_mlp(encoder, _ENCODER + "layers_{}/", ("ffn.layers.0.0", "ffn.layers.1")),
        Rule(encoder + "norms.{}", _ENCODER + "layers_{}/norms_{}", LAYER_NORM),
        *_fpn(
            pixel + "lateral_convs.0.conv",
            pixel + "lateral_convs.0.gn",
            pixel + "output_convs.0.conv",
            pixel + "output_convs.0.gn",
            pixel + "mask_feature",
        ),
        *(
            Rule(f"{layer}{kind}_attn.attn{theirs}", f"{_LAYER}{kind}_attn/{ours}", leaves)
            for kind in ("cross", "self")
            for theirs, ours, leaves in (("", "in_proj", IN_PROJ), (".out_proj", "out_proj", LINEAR))
        ),
        *_mlp(layer, _LAYER, ("ffn.layers.0.0", "ffn.layers.1")),
        Rule(layer + "norms.{}", _LAYER + "norms_{}", LAYER_NORM),
        Rule("transformer_decoder.post_norm", _PREDICTIONS + "post_norm", LAYER_NORM),
        Rule("cls_embed", _PREDICTIONS + "cls_embed", LINEAR),
        Rule("mask_embed.{}", _PREDICTIONS + "mask_embed_{}", LINEAR),
        *(
            rule
            for name in ("query_feat", "query_embed", "level_embed")
            for rule in _embedding(name, "query_decoder/", name, "weight")
        ),
    )
    return Table((*rules, *VW), _SKIPPED)


def _embedding(theirs: str, ours: str, name: str, tensor: str) -> tuple[Rule]:
    """A learnt table that is a parameter of our module itself."""
    return (Rule(theirs, ours.removesuffix("/"), (parameter(name, tensor),)),)


def _mlp(theirs: str, ours: str, names: tuple[str, str]) -> tuple[Rule, Rule]:
    return Rule(theirs + names[0], ours + "ffn/fc1", LINEAR), Rule(theirs + names[1], ours + "ffn/fc2", LINEAR)


def _fpn(lateral: str, lateral_norm: str, output: str, output_norm: str, mask_feature: str) -> tuple[Rule, ...]:
    """Where the finest feature is added."""
    return (
        Rule(lateral, _PIXEL + "lateral_convs_0", CONV),
        Rule(lateral_norm, _PIXEL + "output_convs_0/branch_norm", LAYER_NORM),
        Rule(output, _PIXEL + "output_convs_0/conv", CONV),
        Rule(output_norm, _PIXEL + "output_convs_0/gn", LAYER_NORM),
        Rule(mask_feature, _PIXEL + "mask_feature", CONV),
    )


# VWMask2FormerHead's pixel decoder but for the deformable attention of variant b
VW = (
    Rule("pixel_decoder.linear_c4.norm", _WINDOWS + "norm", LAYER_NORM),
    Rule("pixel_decoder.linear_c1", _WINDOWS + "linear_c1/conv", CONV),
    Rule("pixel_decoder.linear_c1.norm", _WINDOWS + "linear_c1/bn", NORM),
    Rule("pixel_decoder.linear_c{}", _WINDOWS + "linear_c{}", CONV),
    Rule("pixel_decoder.linear_fuse", _WINDOWS + "linear_fuse/conv", CONV),
    Rule("pixel_decoder.short_path_0", _WINDOWS + "short_path_0", CONV),
    Rule("pixel_decoder.image_pool_0.1", _WINDOWS + "image_pool_0", CONV),  # 0 is the pooling
    Rule("pixel_decoder.cat_0", _WINDOWS + "cat_0/conv", CONV),
    Rule("pixel_decoder.low_level_fuse", _WINDOWS + "low_level_fuse/conv", CONV),
    Rule("pixel_decoder.low_level_fuse.norm", _WINDOWS + "low_level_fuse/gn", LAYER_NORM),
    Rule("pixel_decoder.attn_0.{}", _WINDOWS + "attn_{}/in_proj", IN_PROJ),
    Rule("pixel_decoder.attn_0.{}.out_proj", _WINDOWS + "attn_{}/out_proj", LINEAR),
    Rule("pixel_decoder.ds_0.{}", _WINDOWS + "attn_{}/ds/conv", CONV),
    Rule("pixel_decoder.ds_0.{}.norm", _WINDOWS + "attn_{}/ds/bn", NORM),
    Rule("pixel_decoder.proj.{}", _PIXEL + "proj_{}/conv", CONV),
    Rule("pixel_decoder.proj.{}.norm", _PIXEL + "proj_{}/gn", LAYER_NORM),
)
