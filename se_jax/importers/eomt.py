"""EoMTHead and the ViT beneath it, by the names of the authors' repository (tue-mps/eomt) and of transformers.

The authors' encoder is timm's for DINOv2, and a mixture of timm's and transformers' names for DINOv3. Of DINOv3 they
publish differences to Meta's weights: `se_jax.importers.differences` adds these.
"""

from se_jax.importers import vit
from se_jax.importers.rules import CONV, LAYER_NORM, LINEAR, TRANSPOSED_CONV, Rule, Table, parameter

_PREDICTOR, _UPSCALE = "predictor/", "predictor/upscale_{}/"
_BUFFERS = {
    r"(encoder\.)?pixel_(mean|std)": "normalisation of the images",
    r"attn_mask_probs": "how many queries are masked, which follows from the step",
}
HINTS = {
    r"\bq(uery)?\.weight": "set model.decoder.queries to the number of the checkpoint's queries",
    r"upscale": "model.decoder.upscales says how often the masks' grid is doubled: 2 for a patch of 16",
}


def official(head) -> Table:
    """The authors' names, which stand beside `encoder.backbone.`."""
    rules = (
        Rule("q", "", (parameter("query", "weight"),)),
        Rule("class_head", _PREDICTOR + "class_head", LINEAR),
        Rule("mask_head.{}", _PREDICTOR + "mask_head_{}", LINEAR),
        Rule("upscale.{}.conv1", _UPSCALE + "conv1", TRANSPOSED_CONV),
        Rule("upscale.{}.conv2", _UPSCALE + "conv2", CONV),
        Rule("upscale.{}.norm", _UPSCALE + "norm", LAYER_NORM),
    )
    return Table(rules, _BUFFERS, hints=HINTS)


def transformers(head) -> Table:
    """EomtForUniversalSegmentation and its version of DINOv3, in which encoder and head stand side by side."""
    rules = (
        Rule("query", "", (parameter("query", "weight"),)),
        Rule("class_predictor", _PREDICTOR + "class_head", LINEAR),
        *(Rule(f"mask_head.fc{i + 1}", f"{_PREDICTOR}mask_head_{2 * i}", LINEAR) for i in range(3)),
        Rule("upscale_block.block.{}.conv1", _UPSCALE + "conv1", TRANSPOSED_CONV),
        Rule("upscale_block.block.{}.conv2", _UPSCALE + "conv2", CONV),
        Rule("upscale_block.block.{}.layernorm2d", _UPSCALE + "norm", LAYER_NORM),
    )
    return Table(rules, _BUFFERS, hints=HINTS)


def official_encoder(encoder) -> Table | None:
    """What stands below `encoder.backbone.`."""
    if encoder.pyramid:
        return None
    if not encoder.sizes.rotary:
        return vit.timm(encoder)
    scope = "patch_embed"
    rules = (
        *vit.front(encoder, scope, "cls_token", "register_tokens", ""),
        vit.patches(encoder, f"{scope}.patch_embeddings"),
        *vit.dinov3_blocks(encoder, "blocks.{}"),
        Rule("norm", "norm", LAYER_NORM),
    )
    return Table(rules, vit.SKIPPED | {r"patch_embed\.mask_token": "for pretraining only"}, hints=vit.HINTS)


def transformers_encoder(encoder) -> Table | None:
    """The encoder's part of transformers' network."""
    if encoder.pyramid or not encoder.sizes.layer_scale:
        return None
    sizes, scope = encoder.sizes, "embeddings"
    if sizes.rotary:
        blocks, positions, patches = vit.dinov3_blocks(encoder, "layers.{}"), "", f"{scope}.patch_embeddings"
    else:
        blocks = vit.transformers_blocks(encoder, "layers.{}", "attention.out_proj", modules=True)
        positions, patches = "position_embeddings.weight", f"{scope}.patch_embeddings.projection"
    rules = (
        *vit.front(encoder, scope, "cls_token", "register_tokens", positions, flat=not encoder.class_position),
        vit.patches(encoder, patches),
        *blocks,
        Rule("layernorm", "norm", LAYER_NORM),
    )
    row = vit.class_row(encoder, f"{scope}.cls_token", f"{scope}.{positions}", row=False, flat=True)
    return Table(rules, vit.SKIPPED, hints=vit.HINTS, **row)
