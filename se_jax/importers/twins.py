"""Twins-SVT and -PCPVT, by the names of mmsegmentation and timm (twins_svt_small, twins_pcpvt_small, ...)."""

from se_jax.importers.rules import CONV, IN_PROJ, LAYER_NORM, LINEAR, SPLIT_QKV, Rule, Table

# ImageNet checkpoints, also those converted to mmsegmentation's names, end in one norm and a classifier; they have none
# of the four norms of SVT's maps, which mmsegmentation, too, then leaves at their initial values.
_IMAGENET = {
    "skipped": {
        r"head\.(weight|bias)": "ImageNet classifier",
        r"norm\.(weight|bias)": "norm in front of the ImageNet classifier",
    },
    "optional": (r"norm_list_\d+",),
}


def mmseg(encoder) -> Table:
    """Local and global attention have names of their own."""
    ours, theirs = "layers_{}_{}/", "layers.{}.{}."
    return Table(
        rules=(
            Rule("patch_embeds.{}.projection", "patch_embeds_{}/projection", CONV),
            Rule("patch_embeds.{}.norm", "patch_embeds_{}/norm", LAYER_NORM),
            Rule(theirs + "norm{}", ours + "norm{}", LAYER_NORM),
            *_local_attention(encoder, "layers"),
            Rule(theirs + "attn.attn", ours + "attn/qkv", IN_PROJ),
            Rule(theirs + "attn.attn.out_proj", ours + "attn/proj", LINEAR),
            Rule(theirs + "attn.sr", ours + "attn/sr", CONV),
            Rule(theirs + "attn.norm", ours + "attn/norm", LAYER_NORM),
            Rule(theirs + "ffn.layers.0.0", ours + "ffn/fc1", LINEAR),
            Rule(theirs + "ffn.layers.1", ours + "ffn/fc2", LINEAR),
            Rule("position_encodings.{}.proj", "position_encodings_{}/proj", CONV),
            Rule("norm_list.{}", "norm_list_{}", LAYER_NORM),
        ),
        stem="patch_embeds_0/projection",
        **_IMAGENET,
    )


def timm(encoder) -> Table:
    """Also the names of the authors' own checkpoints. SVT's four norms, unknown there, keep mmsegmentation's names.

    With equal weights timm's outputs are near ours, not equal: the LayerNorms in front of its attention and MLPs have
    an epsilon of 1e-6, and its local attention never masks padding.
    """
    ours, theirs = "layers_{}_{}/", "blocks.{}.{}."
    return Table(
        rules=(
            Rule("patch_embeds.{}.proj", "patch_embeds_{}/projection", CONV),
            Rule("patch_embeds.{}.norm", "patch_embeds_{}/norm", LAYER_NORM),
            Rule(theirs + "norm{}", ours + "norm{}", LAYER_NORM),
            *_local_attention(encoder, "blocks"),
            Rule(theirs + "attn", ours + "attn/qkv", SPLIT_QKV),
            Rule(theirs + "attn.proj", ours + "attn/proj", LINEAR),
            Rule(theirs + "attn.sr", ours + "attn/sr", CONV),
            Rule(theirs + "attn.norm", ours + "attn/norm", LAYER_NORM),
            Rule(theirs + "mlp.fc{}", ours + "ffn/fc{}", LINEAR),
            Rule("pos_block.{}.proj.0", "position_encodings_{}/proj", CONV),
            Rule("norm_list.{}", "norm_list_{}", LAYER_NORM),
        ),
        stem="patch_embeds_0/projection",
        **_IMAGENET,
    )


def _local_attention(encoder, blocks: str) -> list[Rule]:
    """Every other block of an SVT, whose projection is packed; behind these, rules may be about global attention."""
    if not encoder.has_windows:
        return []
    return [
        Rule(f"{blocks}.{{}}.{index}.attn.{name}", f"layers_{{}}_{index}/attn/{name}", LINEAR)
        for index in range(0, max(encoder.sizes.depths), 2)
        for name in ("qkv", "proj")
    ]
