"""MixVisionTransformer, by the names of mmsegmentation and of the authors' own repository (NVlabs/SegFormer)."""

from se_jax.importers.rules import CONV, CONV_AS_LINEAR, IN_PROJ, LAYER_NORM, LINEAR, SPLIT_QKV, Rule, Table


def mmseg(encoder) -> Table:
    """Stage i is the list layers.i: patch embedding, blocks, norm."""
    ours, theirs = "layers_{}_1_{}/", "layers.{}.1.{}."
    return Table(
        rules=(
            Rule("layers.{}.0.projection", "layers_{}_0/projection", CONV),
            Rule("layers.{}.0.norm", "layers_{}_0/norm", LAYER_NORM),
            Rule(theirs + "norm{}", ours + "norm{}", LAYER_NORM),
            Rule(theirs + "attn.attn", ours + "attn/qkv", IN_PROJ),
            Rule(theirs + "attn.attn.out_proj", ours + "attn/proj", LINEAR),
            Rule(theirs + "attn.sr", ours + "attn/sr", CONV),
            Rule(theirs + "attn.norm", ours + "attn/norm", LAYER_NORM),
            Rule(theirs + "ffn.layers.{}", ours + "ffn/layers_{}", CONV),
            Rule("layers.{}.2", "layers_{}_2", LAYER_NORM),
        ),
        skipped={r"head\.(weight|bias)": "ImageNet classifier"},
        stem="layers_0_0/projection",
    )


def official(encoder) -> Table:
    """Stages count from 1; the 1x1 convolutions of the Mix-FFN are linear maps there."""
    rules = []
    for stage in range(len(encoder.sizes.depths)):
        embed, block, norm = (f"{name}{stage + 1}" for name in ("patch_embed", "block", "norm"))
        ours, theirs = f"layers_{stage}_1_{{}}/", block + ".{}."
        rules += [
            Rule(f"{embed}.proj", f"layers_{stage}_0/projection", CONV),
            Rule(f"{embed}.norm", f"layers_{stage}_0/norm", LAYER_NORM),
            Rule(theirs + "norm{}", ours + "norm{}", LAYER_NORM),
            Rule(theirs + "attn", ours + "attn/qkv", SPLIT_QKV),
            Rule(theirs + "attn.proj", ours + "attn/proj", LINEAR),
            Rule(theirs + "attn.sr", ours + "attn/sr", CONV),
            Rule(theirs + "attn.norm", ours + "attn/norm", LAYER_NORM),
            Rule(theirs + "mlp.fc1", ours + "ffn/layers_0", CONV_AS_LINEAR),
            Rule(theirs + "mlp.dwconv.dwconv", ours + "ffn/layers_1", CONV),
            Rule(theirs + "mlp.fc2", ours + "ffn/layers_4", CONV_AS_LINEAR),
            Rule(norm, f"layers_{stage}_2", LAYER_NORM),
        ]
    return Table(
        rules=tuple(rules), skipped={r"head\.(weight|bias)": "ImageNet classifier"}, stem="layers_0_0/projection"
    )
