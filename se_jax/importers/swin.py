"""Swin by the names of mmsegmentation, timm 1.0, the original repository (and timm before 0.9), torchvision and
transformers.

The names of transformers are those inside its Mask2Former.
"""

import numpy as np

from se_jax.importers.rules import CONV, LAYER_NORM, LINEAR, Leaf, Rule, Table, parameter, three_projections

_SKIPPED = {
    r".*relative_position_index": "computed from the window",
    r".*\.attn_mask": "computed from the window and the map",
    r"(swin\.)?(layer)?norm\.(weight|bias)": "norm of the ImageNet classifier",
    r"head\..*": "ImageNet classifier",
}
_BLOCKS = "stages_{}_blocks_{}"
# the pixels (row, column) 00, 10, 01, 11 of others in the order 00, 01, 10, 11 of mmsegmentation, and back
_PIXELS = [0, 2, 1, 3]


def mmseg(encoder) -> Table:
    """Patch merging is channel-major here as in our variables."""
    rules = (
        *_patch_embed("patch_embed.projection", "patch_embed.norm"),
        *_block("stages.{}.blocks.{}", _BLOCKS, attn="attn.w_msa", mlp=("ffn.layers.0.0", "ffn.layers.1")),
        Rule("stages.{}.downsample.norm", "stages_{}_downsample/norm", LAYER_NORM),
        Rule("stages.{}.downsample.reduction", "stages_{}_downsample/reduction", LINEAR),
    )
    return _table(rules)


def timm(encoder) -> Table:
    """Patch merging opens the next stage; it is position-major, as in all layouts but mmsegmentation's."""
    merging = [_merging(f"layers.{stage + 1}.downsample", f"stages_{stage}_downsample") for stage in range(3)]
    rules = (
        *_patch_embed("patch_embed.proj", "patch_embed.norm"),
        *_block("layers.{}.blocks.{}", _BLOCKS),
        *sum(merging, ()),
    )
    return _table(rules)


def official(encoder) -> Table:
    """Patch merging closes its stage."""
    rules = (
        *_patch_embed("patch_embed.proj", "patch_embed.norm"),
        *_block("layers.{}.blocks.{}", _BLOCKS),
        *_merging("layers.{}.downsample", "stages_{}_downsample"),
    )
    return _table(rules)


def torchvision(encoder) -> Table:
    """One sequence: patch embedding, then stages and mergings in turn."""
    rules = [*_patch_embed("features.0.0", "features.0.2")]
    for stage in range(4):
        rules += _block(f"features.{2 * stage + 1}.{{}}", f"stages_{stage}_blocks_{{}}", mlp=("mlp.0", "mlp.3"))
        rules += _merging(f"features.{2 * stage + 2}", f"stages_{stage}_downsample") if stage < 3 else ()
    return _table(tuple(rules))


def transformers(encoder) -> Table:
    """The names in files, which all releases write."""
    block = "encoder.layers.{}.blocks.{}"
    attention = {
        "table": "attention.self.relative_position_bias_table",
        "qkv": tuple(f"attention.self.{name}" for name in ("query", "key", "value")),
        "proj": "attention.output.dense",
    }
    return _transformers("embeddings", block, attention, ("intermediate.dense", "output.dense"))


def transformers_modules(encoder) -> Table:
    """The names of the modules of transformers 5, which it renames when it writes a file."""
    block = "swin.encoder.layers.{}.blocks.{}"
    attention = {
        "table": "attention.relative_position_bias.relative_position_bias_table",
        "qkv": tuple(f"attention.{name}_proj" for name in "qkv"),
        "proj": "attention.o_proj",
    }
    return _transformers("swin.embeddings", block, attention, ("mlp.fc1", "mlp.fc2"))


def _transformers(embeddings: str, block: str, attention: dict, mlp: tuple[str, str]) -> Table:
    """Queries, keys and values apart; output norms are counted from 1."""
    table, _, name = attention["table"].rpartition(".")
    stage = block.removesuffix(".blocks.{}")
    rules = (
        *_patch_embed(f"{embeddings}.patch_embeddings.projection", f"{embeddings}.norm"),
        Rule(f"{block}.layernorm_before", f"{_BLOCKS}/norm1", LAYER_NORM),
        Rule(f"{block}.{table}", f"{_BLOCKS}/attn", (parameter("bias_table", name),)),
        Rule(block, f"{_BLOCKS}/attn/qkv", three_projections(*attention["qkv"])),
        Rule(f"{block}.{attention['proj']}", f"{_BLOCKS}/attn/proj", LINEAR),
        Rule(f"{block}.layernorm_after", f"{_BLOCKS}/norm2", LAYER_NORM),
        Rule(f"{block}.{mlp[0]}", f"{_BLOCKS}/ffn/fc1", LINEAR),
        Rule(f"{block}.{mlp[1]}", f"{_BLOCKS}/ffn/fc2", LINEAR),
        *_merging(f"{stage}.downsample", "stages_{}_downsample"),
        *(Rule(f"hidden_states_norms.stage{i + 1}", f"norm{i}", LAYER_NORM) for i in range(4)),
    )
    return _table(rules)


def _table(rules: tuple[Rule, ...]) -> Table:
    """Adds the norms at the four outputs, which segmentation networks have and ImageNet checkpoints lack."""
    norms = Rule("norm{}", "norm{}", LAYER_NORM)
    return Table((*rules, norms), _SKIPPED, optional=(r"norm\d",), stem="patch_embed_projection")


def _patch_embed(projection: str, norm: str) -> tuple[Rule, ...]:
    return Rule(projection, "patch_embed_projection", CONV), Rule(norm, "patch_embed_norm", LAYER_NORM)


def _block(theirs: str, ours: str, attn: str = "attn", mlp: tuple[str, str] = ("mlp.fc1", "mlp.fc2")):
    return (
        Rule(f"{theirs}.norm1", f"{ours}/norm1", LAYER_NORM),
        Rule(f"{theirs}.{attn}", f"{ours}/attn", (parameter("bias_table", "relative_position_bias_table"),)),
        Rule(f"{theirs}.{attn}.qkv", f"{ours}/attn/qkv", LINEAR),
        Rule(f"{theirs}.{attn}.proj", f"{ours}/attn/proj", LINEAR),
        Rule(f"{theirs}.norm2", f"{ours}/norm2", LAYER_NORM),
        Rule(f"{theirs}.{mlp[0]}", f"{ours}/ffn/fc1", LINEAR),
        Rule(f"{theirs}.{mlp[1]}", f"{ours}/ffn/fc2", LINEAR),
    )


def _merging(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a patch merging whose weights are position-major."""
    return (
        Rule(f"{theirs}.norm", f"{ours}/norm", (_merged("scale", "weight"), _merged("bias", "bias"))),
        Rule(f"{theirs}.reduction", f"{ours}/reduction", (_MERGED_KERNEL,)),
    )


def _channel_major(array: np.ndarray) -> np.ndarray:
    """Reorders the last axis, four pixels of c channels each, to c channels of four pixels each."""
    pixels = array.reshape(*array.shape[:-1], 4, -1)[..., _PIXELS, :]
    return pixels.swapaxes(-1, -2).reshape(array.shape)


def _position_major(array: np.ndarray) -> np.ndarray:
    """The inverse of `_channel_major`."""
    pixels = array.reshape(*array.shape[:-1], -1, 4).swapaxes(-1, -2)
    return pixels[..., _PIXELS, :].reshape(array.shape)


def _merged(ours: str, theirs: str) -> Leaf:
    return Leaf("params", ours, (theirs,), _channel_major, lambda array: (_position_major(array),))


_MERGED_KERNEL = Leaf(
    "params",
    "kernel",
    ("weight",),
    lambda tensor: _channel_major(tensor).T,
    lambda array: (_position_major(array.T),),
)
