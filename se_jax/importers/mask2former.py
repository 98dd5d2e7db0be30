"""Mask2FormerHead and VWMask2FormerHead, by the names of mmsegmentation (mmdet's), of the authors' repository, which is
built on detectron2, and of transformers.

Names of VWMask2FormerHead's pixel decoder are its authors' (yan-hao-tian/VW), in all layouts. Its shared norm is in a
checkpoint under the names of all convolutions before it; it is read from, and written to, one of them.
"""

from se_jax.importers.rules import CONV, IN_PROJ, LAYER_NORM, LINEAR, NORM, Rule, Table, parameter, three_projections

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
    pixel, layer = "pixel_decoder.", "transformer_decoder.layers.{}."
    lateral, output, ffn = pixel + "lateral_convs.0", pixel + "output_convs.0", ("ffn.layers.0.0", "ffn.layers.1")
    rules = (
        Rule(pixel + "input_convs.{}.conv", _ENCODER + "input_convs_{}/conv", CONV),
        Rule(pixel + "input_convs.{}.gn", _ENCODER + "input_convs_{}/gn", LAYER_NORM),
        Rule(pixel + "level_encoding", _PIXEL + "encoder", (parameter("level_encoding", "weight"),)),
        *_deformable(pixel + "encoder.layers.{}.", ffn, ("norms.0", "norms.1")),
        *_fpn((lateral + ".conv", lateral + ".gn"), (output + ".conv", output + ".gn"), pixel + "mask_feature"),
        *(
            Rule(f"{layer}{kind}_attn.attn{theirs}", f"{_LAYER}{kind}_attn/{ours}", leaves)
            for kind in ("cross", "self")
            for theirs, ours, leaves in (("", "in_proj", IN_PROJ), (".out_proj", "out_proj", LINEAR))
        ),
        *_mlp(layer, _LAYER, ffn),
        Rule(layer + "norms.{}", _LAYER + "norms_{}", LAYER_NORM),
        Rule("transformer_decoder.post_norm", _PREDICTIONS + "post_norm", LAYER_NORM),
        Rule("cls_embed", _PREDICTIONS + "cls_embed", LINEAR),
        Rule("mask_embed.{}", _PREDICTIONS + "mask_embed_{}", LINEAR),
        *_embeddings("query_feat", "query_embed", "level_embed"),
    )
    return Table((*rules, *VW), _SKIPPED)


def detectron2(head) -> Table:
    """The authors' names, below `sem_seg_head.`."""
    pixel, predictor = "pixel_decoder.", "predictor."
    kinds = ("cross_attention", "self_attention", "ffn")
    cross, itself, ffn = (f"{predictor}transformer_{kind}_layers.{{}}." for kind in kinds)
    rules = (
        Rule(pixel + "input_proj.{}.0", _ENCODER + "input_convs_{}/conv", CONV),
        Rule(pixel + "input_proj.{}.1", _ENCODER + "input_convs_{}/gn", LAYER_NORM),
        Rule(pixel + "transformer", _PIXEL + "encoder", (parameter("level_encoding", "level_embed"),)),
        *_deformable(pixel + "transformer.encoder.layers.{}.", ("linear1", "linear2"), ("norm1", "norm2")),
        *_fpn(
            (pixel + "adapter_1", pixel + "adapter_1.norm"),
            (pixel + "layer_1", pixel + "layer_1.norm"),
            pixel + "mask_features",
        ),
        Rule(cross + "multihead_attn", _LAYER + "cross_attn/in_proj", IN_PROJ),
        Rule(cross + "multihead_attn.out_proj", _LAYER + "cross_attn/out_proj", LINEAR),
        Rule(itself + "self_attn", _LAYER + "self_attn/in_proj", IN_PROJ),
        Rule(itself + "self_attn.out_proj", _LAYER + "self_attn/out_proj", LINEAR),
        *_mlp(ffn, _LAYER, ("linear1", "linear2")),
        *(Rule(x + "norm", f"{_LAYER}norms_{i}", LAYER_NORM) for i, x in enumerate((cross, itself, ffn))),
        Rule(predictor + "decoder_norm", _PREDICTIONS + "post_norm", LAYER_NORM),
        Rule(predictor + "class_embed", _PREDICTIONS + "cls_embed", LINEAR),
        *(Rule(f"{predictor}mask_embed.layers.{i}", f"{_PREDICTIONS}mask_embed_{2 * i}", LINEAR) for i in range(3)),
        *_embeddings(*(predictor + x for x in ("query_feat", "query_embed", "level_embed"))),
    )
    return Table((*rules, *VW), _SKIPPED, older={r"(.*predictor\.)static_query(\..*)": r"\1query_feat\2"})


def transformers(head) -> Table:
    """The names of Mask2FormerForUniversalSegmentation; its attention among queries keeps three projections apart."""
    pixel, module = "model.pixel_level_module.decoder.", "model.transformer_module."
    layer, mask = module + "decoder.layers.{}.", module + "decoder.mask_predictor.mask_embedder."
    norms = ("cross_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm")
    projections = three_projections("q_proj", "k_proj", "v_proj")
    rules = (
        Rule(pixel + "input_projections.{}.0", _ENCODER + "input_convs_{}/conv", CONV),
        Rule(pixel + "input_projections.{}.1", _ENCODER + "input_convs_{}/gn", LAYER_NORM),
        Rule(pixel.removesuffix("."), _PIXEL + "encoder", (parameter("level_encoding", "level_embed"),)),
        *_deformable(pixel + "encoder.layers.{}.", ("fc1", "fc2"), ("self_attn_layer_norm", "final_layer_norm")),
        *_fpn(
            (pixel + "adapter_1.0", pixel + "adapter_1.1"),
            (pixel + "layer_1.0", pixel + "layer_1.1"),
            pixel + "mask_projection",
        ),
        Rule(layer + "cross_attn", _LAYER + "cross_attn/in_proj", IN_PROJ),
        Rule(layer + "cross_attn.out_proj", _LAYER + "cross_attn/out_proj", LINEAR),
        Rule(layer + "self_attn", _LAYER + "self_attn/in_proj", projections),
        Rule(layer + "self_attn.out_proj", _LAYER + "self_attn/out_proj", LINEAR),
        *_mlp(layer, _LAYER, ("fc1", "fc2")),
        *(Rule(layer + name, f"{_LAYER}norms_{i}", LAYER_NORM) for i, name in enumerate(norms)),
        Rule(module + "decoder.layernorm", _PREDICTIONS + "post_norm", LAYER_NORM),
        Rule("class_predictor", _PREDICTIONS + "cls_embed", LINEAR),
        *(Rule(f"{mask}{i}.0", f"{_PREDICTIONS}mask_embed_{2 * i}", LINEAR) for i in range(3)),
        *_embeddings(*(module + x for x in ("queries_features", "queries_embedder", "level_embed"))),
    )
    return Table((*rules, *VW), _SKIPPED)


def _deformable(theirs: str, ffn: tuple[str, str], norms: tuple[str, str]) -> tuple[Rule, ...]:
    """A layer of the pixel decoder."""
    ours = _ENCODER + "layers_{}/"
    return (
        *(Rule(f"{theirs}self_attn.{name}", f"{ours}self_attn/{name}", LINEAR) for name in _ATTENTION),
        *_mlp(theirs, ours, ffn),
        *(Rule(theirs + name, f"{ours}norms_{i}", LAYER_NORM) for i, name in enumerate(norms)),
    )


def _mlp(theirs: str, ours: str, names: tuple[str, str]) -> tuple[Rule, Rule]:
    return Rule(theirs + names[0], ours + "ffn/fc1", LINEAR), Rule(theirs + names[1], ours + "ffn/fc2", LINEAR)


def _embeddings(*theirs: str) -> tuple[Rule, ...]:
    """Learnt tables, which are parameters of our module itself."""
    ours = ("query_feat", "query_embed", "level_embed")
    return tuple(
        Rule(module, "query_decoder", (parameter(name, "weight"),)) for name, module in zip(ours, theirs, strict=True)
    )


def _fpn(lateral: tuple[str, str], output: tuple[str, str], mask_feature: str) -> tuple[Rule, ...]:
    """Where the finest feature is added: two convolutions, each with its norm, and the last one."""
    return (
        Rule(lateral[0], _PIXEL + "lateral_convs_0", CONV),
        Rule(lateral[1], _PIXEL + "output_convs_0/branch_norm", LAYER_NORM),
        Rule(output[0], _PIXEL + "output_convs_0/conv", CONV),
        Rule(output[1], _PIXEL + "output_convs_0/gn", LAYER_NORM),
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
