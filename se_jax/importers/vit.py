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
_SKIPPED = {
    r"(embeddings\.)?mask_token": "for pretraining only",
    r"(local_)?cls_norm\.(weight|bias)": "norm of the class token, which no map shows",
    r".*\.bias_mask": "which part of the bias is not used",
    r"(rope_embed|rope)\.(periods|inv_freq)": "computed from the width of a head",
    r"(head|fc_norm|head_drop)\..*": "ImageNet classifier",
}
_HINTS = {r"(register|storage)_tokens|reg_token": "model.encoder.registers says how many registers there are"}
# a training checkpoint of the authors' has its blocks in chunks
_CHUNKS = {r"blocks\.\d+\.(\d+)\.(.*)": r"blocks.\1.\2"}


# The names of mmsegmentation's Feature2Pyramid, which stands beside its backbone; only networks that were trained have it
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
        _SKIPPED,
        hints=_HINTS,
        optional=OPTIONAL,
        older=_CHUNKS,
        stem="patch_embed",
        normalization=IMAGENET,
    )


def timm(encoder) -> Table:
    """timm's names: of VisionTransformer, and of Eva where positions are rotary.

    Weights of augreg and of other variants from JAX are fed -1 to 1; MAE's and DeiT's, which have the same names, are
    not, and for those model.normalization is to be given.
    """
    sizes = encoder.sizes
    tokens = front(encoder, "", "cls_token", "reg_token", "pos_embed", with_class=not sizes.registers)
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
        _SKIPPED,
        hints=_HINTS,
        # the smaller of timm's two versions of DINOv3 has no bias, as the published ones are all but zero
        optional=(*OPTIONAL, r"blocks_\d+/attn/qkv") if sizes.rotary else OPTIONAL,
        stem="patch_embed",
        normalization=IMAGENET if sizes.layer_scale else INCEPTION,
        **folded_class(encoder, "cls_token", "pos_embed"),
    )


def transformers(encoder) -> Table | None:
    """The names in files, which all releases write."""
    if not encoder.sizes.layer_scale:
        return None
    if encoder.sizes.rotary:
        return _transformers_dinov3(encoder, "layer.{}")
    names = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))
    mlp = _gated(("mlp.weights_in",), "mlp.weights_out") if encoder.sizes.gated else _mlp("mlp.fc1", "mlp.fc2")
    return _transformers(encoder, "encoder.layer.{}", names, "attention.output.dense", mlp)


def transformers_modules(encoder) -> Table | None:
    """The names of the modules of transformers 5, which it renames when it writes a file."""
    if not encoder.sizes.layer_scale:
        return None
    if encoder.sizes.rotary:
        return _transformers_dinov3(encoder, "model.layer.{}")
    names = tuple(f"attention.{name}_proj" for name in "qkv")
    mlp = _mlp("mlp.fc1", "mlp.fc2")
    if encoder.sizes.gated:
        mlp = _gated(("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")
    return _transformers(encoder, "encoder.layer.{}", names, "attention.o_proj", mlp)


def _transformers(encoder, block: str, names: tuple[str, str, str], proj: str, mlp) -> Table:
    """DINOv2."""
    rules = (
        *front(encoder, "embeddings", "cls_token", "register_tokens", "position_embeddings"),
        patches(encoder, "embeddings.patch_embeddings.projection"),
        *_blocks(block, None, names, proj, ("layer_scale{}", "lambda1")),
        *(rule._replace(theirs=rule.theirs.replace("blocks.{}", block)) for rule in mlp),
        Rule("layernorm", "norm", LAYER_NORM),
        *PYRAMID,
    )
    return Table(rules, _SKIPPED, hints=_HINTS, optional=OPTIONAL, stem="patch_embed")


def _transformers_dinov3(encoder, block: str) -> Table:
    rules = (
        *front(encoder, "embeddings", "cls_token", "register_tokens", ""),
        patches(encoder, "embeddings.patch_embeddings"),
        *dinov3_blocks(encoder, block),
        Rule("norm", "norm", LAYER_NORM),
        *PYRAMID,
    )
    return Table(rules, _SKIPPED, hints=_HINTS, optional=OPTIONAL, stem="patch_embed")


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


def front(encoder, scope: str, cls: str, registers: str, positions: str, *, with_class: bool = True):
    """The rules of the tokens in front and of the table, parameters of the encoder itself."""
    tokens = [
        Leaf("params", "cls_token", (cls,), lambda t: t[0, 0], lambda a: (a[None, None],)),
        _batched("register_tokens", registers),
    ]
    if positions:
        tokens.append(_batched("position", positions)._replace(fit=functools.partial(_fit_positions, encoder)))
    return (Rule(scope, "", tuple(tokens)),)


def patches(encoder, theirs: str) -> Rule:
    """The rule of the patch embedding."""
    return Rule(theirs, "patch_embed", (CONV[0]._replace(fit=functools.partial(_fit_patch, encoder)), CONV[1]))


def folded_class(encoder, cls: str, positions: str):
    """Table.read and Table.write of a layout whose table of positions has no row of the class, where there are registers.

    cls, positions: names of the two tensors. A table of another rank, [n, c], stays one.
    """
    if not encoder.sizes.registers or encoder.sizes.rotary:
        return {}

    def read(tensors: dict) -> dict:
        table = tensors.get(positions)
        if table is None or cls not in tensors:
            return tensors
        table = np.asarray(table).reshape(1, *table.shape[-2:])
        return tensors | {positions: np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)}

    def write(tensors: dict) -> dict:
        table = tensors[positions]
        return tensors | {positions: table[:, 1:], cls: tensors[cls] + table[:, :1]}

    return {"read": read, "write": write}


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
    """A table [1, 1 + n, c] of another grid resized to the network's, as timm does when it loads weights."""
    count, wanted = table.shape[1] - 1, encoder.table_grid
    if table.ndim != 3 or 1 + count == shape[0]:
        return table, ""
    side = math.isqrt(count)
    if encoder.grid is None or side**2 != count:
        sides = f"{side} x {side}" if side**2 == count else f"{count}"
        raise ValueError(
            f"its positions are of {sides} patches, the network's of {wanted[0]} x {wanted[1]}: give model.encoder.size, "
            f"the side of its images of pretraining, or model.encoder.grid=(height, width) to have them resized"
        )
    resized = resize_table(table[0, 1:], (side, side), wanted, antialias=True, offset=0.0)
    return np.concatenate([table[:, :1], np.asarray(resized)[None]], axis=1), f"grid {side} x {side} -> {wanted}"


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
