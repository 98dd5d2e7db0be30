"""UNetHead, LinkNetHead and FPNHead, by the names of segmentation_models_pytorch.

Whole networks of it have encoders below `encoder.`, decoders below `decoder.`, and their classifier in
`segmentation_head.0`.
"""

from se_jax.importers.rules import CONV, LAYER_NORM, NORM, Leaf, Rule, Table, conv_bn, parameter

_CLASSIFIER = "segmentation_head.0"
_LEVELS = 4  # of FPN: those that the source always takes
# torch's transposed convolution [in, out, kh, kw] turns its kernel round while it is applied; ours [kh, kw, in, out] is
_TRANSPOSED = (
    Leaf(
        "params",
        "kernel",
        ("weight",),
        lambda t: t.transpose(2, 3, 0, 1)[::-1, ::-1],
        lambda a: (a[::-1, ::-1].transpose(2, 3, 0, 1),),
    ),
    parameter("bias", "bias"),
)


def unet(head) -> Table:
    """Two convolutions a block."""
    blocks = conv_bn("decoder.blocks.{}.conv{}.0", "decoder.blocks.{}.conv{}.1", "blocks_{}_conv{}")
    return Table((*blocks, Rule(_CLASSIFIER, "conv_seg", CONV)))


def linknet(head) -> Table:
    """Three a block; where blocks are fused, the last one of a block and the first of the next are in our `fuse_i`."""
    rules = [Rule(_CLASSIFIER, "conv_seg", CONV)]
    for i in range(head.blocks):
        reduce, up, expand = (f"decoder.blocks.{i}.block.{part}." for part in range(3))
        rules += [Rule(up + "0", f"blocks_{i}_up", _TRANSPOSED), Rule(up + "1", f"blocks_{i}_bn", NORM)]
        for ours in (f"blocks_{i}_reduce", f"fuse_{i - 1}"):
            rules += conv_bn(reduce + "0", reduce + "1", ours)
        for ours in (f"blocks_{i}_expand", f"fuse_{i}/last_coarser"):
            rules += conv_bn(expand + "0", expand + "1", ours)
    return Table(tuple(rules))


def fpn(head) -> Table:
    """Levels count from the coarsest there, from the finest here; the last convolution of each is in our `merge`."""
    rules = [Rule(f"decoder.p{_LEVELS + 1}", f"lateral_{_LEVELS - 1}", CONV), Rule(_CLASSIFIER, "merge/conv", CONV)]
    rules += [Rule(f"decoder.p{i + 2}.skip_conv", f"lateral_{i}", CONV) for i in range(_LEVELS - 1)]
    for i in range(_LEVELS):
        last = max(i - 1, 0)
        for step, ours in [*((step, f"levels_{i}_{step}") for step in range(last)), (last, f"merge/last_level{i}")]:
            theirs = f"decoder.seg_blocks.{_LEVELS - 1 - i}.block.{step}.block."
            rules += [Rule(theirs + "0", f"{ours}/conv", CONV), Rule(theirs + "1", f"{ours}/gn", LAYER_NORM)]
    return Table(tuple(rules))
