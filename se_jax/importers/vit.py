"""ViT, by the names of the authors of DINOv2 and DINOv3, of timm, and of transformers.

A table of learnt positions has a row for the class token in front. timm's networks with registers, and EoMT's, have
none: there it is added to the class token itself.
"""

import functools
import math

import numpy as np

from se_jax.config.normalization import IMAGENET, INCEPTION
from se_jax.importers.rules import (
    CONV,
    LAYER_NORM,
    LINEAR,
    NORM,
    TRANSPOSED_CONV,
    Leaf,
    Rule,
    Table,
    parameter,
    three_projections,
)
from se_jax.models.positions import cubic_matrix, resize_table

_BLOCK = "blocks_{}"
SKIPPED = {
    r"(embeddings\.)?mask_token": "for pretraining only",
    r"(local_)?cls_norm\.(weight|bias)": "norm of the class token, which no map shows",
    r".*\.bias_mask": "which part of the bias is not used",
    r"(rope_embed|rope)\.(periods|inv_freq)": "computed from the width of a head",
    r"(head|fc_norm|head_drop)\..*": "ImageNet classifier",
}
HINTS = {
    r"(register|storage)_tokens|reg_token": "set model.encoder.registers to the number of the checkpoint's registers, "
    "0 where it has none, or take a variant that has them, as dinov2_small_reg",
    r"no tensor \S*pos(ition)?_embed|pos(ition)?_embed\S* .* has no place": "model.encoder.variant: DINOv2 and timm's "
    "networks have a table of positions, DINOv3 has none",
}
# a training checkpoint of the authors' has its blocks in chunks
_CHUNKS = {r"blocks\.\d+\.(\d+)\.(.*)": r"blocks.\1.\2"}


# The names of mmsegmentation's Feature2Pyramid, which stands beside its backbone; only trained networks have it
PYRAMID = (
    *(
        Rule(f"neck.upsample_{name}", f"feature_pyramid/upsample_{name.replace('.', '_')}", TRANSPOSED_CONV)
        for name in ("4x.0", "4x.3", "2x.0")
    ),
    Rule("neck.upsample_4x.1", "feature_pyramid/upsample_4x_1", NORM),
)
OPTIONAL = (r"feature_pyramid/.*",)


def official(encoder) -> Table | None:
    """facebookresearch's names; DINOv3 calls registers storage tokens, and keeps SwiGLU's two halves apart."""
    if not encoder.sizes.layer_scale:
        return None
    rotary = encoder.sizes.rotary
    packed = ("mlp.w12",) if not rotary else ("mlp.w1", "mlp.w2")
    return Table(
        (
            *front(encoder, "", "cls_token", "storage_tokens" if rotary else "register_tokens", "pos_embed"),
            patches(encoder, "patch_embed.proj"),
            *_blocks("blocks.{}", LINEAR, "attn.qkv", "attn.proj", ("ls{}", "gamma")),
            *(_gated(packed, "mlp.w3") if encoder.sizes.gated else _mlp("mlp.fc1", "mlp.fc2")),
            Rule("norm", "norm", LAYER_NORM),
            *PYRAMID,
        ),
        SKIPPED,
        hints=HINTS,
        optional=OPTIONAL,
        older=_CHUNKS,
        **class_row(encoder, "cls_token", "pos_embed", row=True),
        stem="patch_embed",
        normalization=IMAGENET,
    )


def timm(encoder) -> Table:
    """timm's names: of VisionTransformer, and of Eva where positions are rotary.

    Weights of augreg and of other variants from JAX are fed -1 to 1; MAE's and DeiT's, which have the same names, are
    not, and for those model.normalization is to be given.
    """
    sizes = encoder.sizes
    tokens = front(encoder, "", "cls_token", "reg_token", "pos_embed")
    if sizes.rotary:
        blocks = _blocks("blocks.{}", (LINEAR[0],), "attn.qkv", "attn.proj", None)
        bias = Rule("blocks.{}.attn", f"{_BLOCK}/attn/qkv", (_bias_without_keys("q_bias", "v_bias"),))
        blocks += (bias, *(Rule("blocks.{}", f"{_BLOCK}/ls{i}", (parameter("gamma", f"gamma_{i}"),)) for i in (1, 2)))
        mlp = _gated(("mlp.fc1_g", "mlp.fc1_x"), "mlp.fc2") if sizes.gated else _mlp("mlp.fc1", "mlp.fc2")
    else:
        blocks = _blocks("blocks.{}", LINEAR, "attn.qkv", "attn.proj", ("ls{}", "gamma"))
        mlp = _mlp("mlp.fc1", "mlp.fc2")
    rules = (*tokens, patches(encoder, "patch_embed.proj"), *blocks, *mlp, Rule("norm", "norm", LAYER_NORM), *PYRAMID)
    return Table(
        rules,
        SKIPPED,
        hints=HINTS,
        # the smaller of timm's two versions of DINOv3 has no bias, as the published ones are all but zero
        optional=(*OPTIONAL, r"blocks_\d+/attn/qkv") if sizes.rotary else OPTIONAL,
        stem="patch_embed",
        normalization=IMAGENET if sizes.layer_scale else INCEPTION,
        **class_row(encoder, "cls_token", "pos_embed", row=not sizes.registers),
    )


def transformers(encoder) -> Table | None:
    """The names in files, which all releases write."""
    return _transformers(encoder, modules=False)


def transformers_modules(encoder) -> Table | None:
    """The names of the modules of transformers 5, which it renames when it writes a file."""
    return _transformers(encoder, modules=True)


def _transformers(encoder, *, modules: bool) -> Table | None:
    """DINOv2, and the two of DINOv3."""
    if not encoder.sizes.layer_scale:
        return None
    if encoder.sizes.rotary:
        return _transformers_dinov3(encoder, "model.layer.{}" if modules else "layer.{}")
    proj = "attention.o_proj" if modules else "attention.output.dense"
    rules = (
        *front(encoder, "embeddings", "cls_token", "register_tokens", "position_embeddings"),
        patches(encoder, "embeddings.patch_embeddings.projection"),
        *transformers_blocks(encoder, "encoder.layer.{}", proj, modules=modules),
        Rule("layernorm", "norm", LAYER_NORM),
        *PYRAMID,
    )
    row = class_row(encoder, "embeddings.cls_token", "embeddings.position_embeddings", row=True)
    return Table(rules, SKIPPED, hints=HINTS, optional=OPTIONAL, stem="patch_embed", **row)


def transformers_blocks(encoder, block: str, proj: str, *, modules: bool) -> tuple[Rule, ...]:
    """Blocks of transformers' DINOv2, by the names of its modules or of its files."""
    if modules:
        qkv, gated = [f"attention.{name}_proj" for name in "qkv"], (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
    else:
        qkv = [f"attention.attention.{name}" for name in ("query", "key", "value")]
        gated = (("mlp.weights_in",), "mlp.weights_out")
    mlp = _gated(*gated) if encoder.sizes.gated else _mlp("mlp.fc1", "mlp.fc2")
    return (
        *_blocks(block, None, qkv, proj, ("layer_scale{}", "lambda1")),
        *(rule._replace(theirs=rule.theirs.replace("blocks.{}", block)) for rule in mlp),
    )


def _transformers_dinov3(encoder, block: str) -> Table:
    rules = (
        *front(encoder, "embeddings", "cls_token", "register_tokens", ""),
        patches(encoder, "embeddings.patch_embeddings"),
        *dinov3_blocks(encoder, block),
        Rule("norm", "norm", LAYER_NORM),
        *PYRAMID,
    )
    return Table(rules, SKIPPED, hints=HINTS, optional=OPTIONAL, stem="patch_embed")


def dinov3_blocks(encoder, block: str) -> tuple[Rule, ...]:
    """Blocks of transformers' DINOv3; keys have no bias there."""
    mlp = _mlp("mlp.up_proj", "mlp.down_proj")
    if encoder.sizes.gated:
        mlp = _gated(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
    names = tuple(f"attention.{name}_proj" for name in "qkv")
    return (
        *_blocks(block, None, names, "attention.o_proj", ("layer_scale{}", "lambda1"), encoder.sizes.key_bias),
        *(rule._replace(theirs=rule.theirs.replace("blocks.{}", block)) for rule in mlp),
    )


def front(encoder, scope: str, cls: str, registers: str, positions: str, *, flat: bool = False):
    """The rules of the encoder's own parameters, tokens in front and the table. flat: it is [n, c], no batch of one."""
    tokens = [
        Leaf("params", "cls_token", (cls,), lambda t: t[0, 0], lambda a: (a[None, None],)),
        _batched("register_tokens", registers)._replace(fit=functools.partial(_fit_registers, encoder)),
    ]
    if positions:
        table = parameter("position", positions) if flat else _batched("position", positions)
        tokens.append(table if flat else table._replace(fit=functools.partial(_fit_positions, encoder)))
    return (Rule(scope, "", tuple(tokens)),)


def patches(encoder, theirs: str) -> Rule:
    """The rule of the patch embedding."""
    return Rule(theirs, "patch_embed", (CONV[0]._replace(fit=functools.partial(_fit_patch, encoder)), CONV[1]))


def class_row(encoder, cls: str, positions: str, *, row: bool, flat: bool = False) -> dict:
    """Table.read and Table.write where only one side's table of positions has a row of the class; or nothing.

    Where it has none, the class's position is in its token.

    Args:
      cls, positions: names of the two tensors. row: whether that layout has one. flat: its table is [n, c].
    """
    if encoder.sizes.rotary or row == encoder.class_position:
        return {}

    def fold(tensors: dict) -> dict:
        table = tensors.get(positions)
        if table is None or cls not in tensors:
            return tensors
        return tensors | {positions: table[0, 1:] if flat else table[:, 1:], cls: tensors[cls] + table[:, :1]}

    def unfold(tensors: dict) -> dict:
        table = tensors.get(positions)
        if table is None:
            return tensors
        table = np.asarray(table).reshape(1, *table.shape[-2:])
        return tensors | {positions: np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)}

    return {"read": fold, "write": unfold} if row else {"read": unfold, "write": fold}


def _blocks(block: str, packed, qkv, proj: str, scale, key_bias: bool = True) -> tuple[Rule, ...]:
    """Norms, attention and layer scales of a block; qkv: of one projection, or of three."""
    norms = (Rule(f"{block}.norm{{}}", f"{_BLOCK}/norm{{}}", LAYER_NORM),)
    if packed is not None:
        attention = (Rule(f"{block}.{qkv}", f"{_BLOCK}/attn/qkv", packed),)
    elif key_bias:
        attention = (Rule(block, f"{_BLOCK}/attn/qkv", three_projections(*qkv)),)
    else:
        kernel, _ = three_projections(*qkv)
        bias = _bias_without_keys(f"{qkv[0]}.bias", f"{qkv[2]}.bias")
        attention = (Rule(block, f"{_BLOCK}/attn/qkv", (kernel, bias)),)
    scales = ()
    if scale is not None:
        module, tensor = scale
        scales = (Rule(f"{block}.{module}", f"{_BLOCK}/ls{{}}", (parameter("gamma", tensor),)),)
    return (*norms, *attention, Rule(f"{block}.{proj}", f"{_BLOCK}/attn/proj", LINEAR), *scales)


def _mlp(fc1: str, fc2: str) -> tuple[Rule, ...]:
    return Rule(f"blocks.{{}}.{fc1}", f"{_BLOCK}/mlp/fc1", LINEAR), Rule(
        f"blocks.{{}}.{fc2}", f"{_BLOCK}/mlp/fc2", LINEAR
    )


def _gated(first: tuple[str, ...], last: str) -> tuple[Rule, ...]:
    """SwiGLU's first layer, whole, or its gate and its value apart; then the second one."""
    if len(first) == 1:
        return _mlp(first[0], last)

    def leaf(suffix: str, ours: str) -> Leaf:
        names = tuple(f"{name}.{suffix}" for name in first)
        return Leaf("params", ours, names, lambda *t: np.concatenate(t).T, lambda a: tuple(np.split(a.T, 2)))

    halves = Rule("blocks.{}", f"{_BLOCK}/mlp/fc1", (leaf("weight", "kernel"), leaf("bias", "bias")))
    return halves, _mlp("", last)[1]


def _batched(ours: str, theirs: str) -> Leaf:
    """A parameter [n, c] that torch keeps as a batch of one."""
    return Leaf("params", ours, (theirs,), lambda t: t[0], lambda a: (a[None],))


def _bias_without_keys(query: str, value: str) -> Leaf:
    """The bias of the packed projection where keys have none: the part that is theirs is zero."""

    def to_ours(q, v):
        return np.concatenate([q, np.zeros_like(q), v])

    def to_theirs(bias):
        q, _, v = np.split(bias, 3)
        return q, v

    return Leaf("params", "bias", (query, value), to_ours, to_theirs)


def _fit_positions(encoder, table: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """A table [1, n, c] of another grid resized to the network's, as timm does when it loads weights."""
    row, wanted = int(encoder.class_position), encoder.table_grid
    count = table.shape[1] - row
    if row + count == shape[0]:
        return table, ""
    side = math.isqrt(count)
    if encoder.grid is None or side**2 != count:
        sides = f"{side} x {side}" if side**2 == count else f"{count}"
        raise ValueError(
            f"its positions are of {sides} patches, the network's of {wanted[0]} x {wanted[1]}: give "
            "model.encoder.size, the side of its images of pretraining, or model.encoder.grid=(height, width) to have "
            "them resized"
        )
    resized = resize_table(table[0, row:], (side, side), wanted, antialias=True, offset=0.0)
    return np.concatenate([table[:, :row], np.asarray(resized)[None]], axis=1), f"grid {side} x {side} -> {wanted}"


def _fit_registers(encoder, tokens: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Registers are as many as they are."""
    if (count := tokens.shape[1]) != shape[0]:
        raise ValueError(f"it has {count} registers, the network {shape[0]}: give model.encoder.registers={count}")
    return tokens, ""


def _fit_patch(encoder, kernel: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """A kernel [o, i, p, p] of another patch: that which sees in enlarged images what it saw in its own (FlexiViT).

    Source: timm's resample_patch_embed: the pseudo-inverse of the images' resize.
    """
    patch, wanted = kernel.shape[-1], shape[0]
    if patch == wanted:
        return kernel, ""
    if encoder.grid is None:
        raise ValueError(
            f"its patch is {patch}, the network's {wanted}: give model.encoder.patch={patch}, or model.encoder.grid="
            "(height, width) to have patch and positions converted"
        )
    inverse = np.linalg.pinv(cubic_matrix(patch, wanted, antialias=True).T)
    resized = np.einsum("ij,kl,abjl->abik", inverse, inverse, kernel.astype(np.float64))
    return resized.astype(kernel.dtype), f"patch {patch} -> {wanted}"
