"""Decoder heads against the PyTorch reference, loaded through the import table."""

import jax
import pytest

from se_jax.importers import import_weights
from se_jax.models.decoders import (
    ASPPHead,
    FCNHead,
    FPNHead,
    LinkNetHead,
    PSPHead,
    SepASPPHead,
    UNetHead,
    UPerHead,
)
from tests.conftest import assert_close_to_reference


def make_head(meta):
    """Our head of a golden case's description."""
    kwargs = meta["kwargs"]
    common = {
        "num_classes": kwargs["num_classes"],
        "channels": kwargs["channels"],
        "dropout": kwargs["dropout_ratio"],
        "align_corners": kwargs.get("align_corners", False),
    }
    match meta["class"]:
        case "FCNHead":
            options = {
                name: kwargs[name]
                for name in ("num_convs", "kernel_size", "dilation", "concat_input")
                if name in kwargs
            }
            if kwargs.get("input_transform") == "resize_concat":
                return FCNHead(**common, **options, resize_concat=True)
            return FCNHead(**common, **options, in_index=kwargs["in_index"])
        case "PSPHead":
            return PSPHead(**common, in_index=kwargs["in_index"], pool_scales=tuple(kwargs["pool_scales"]))
        case "ASPPHead":
            return ASPPHead(**common, in_index=kwargs["in_index"], dilations=tuple(kwargs["dilations"]))
        case "DepthwiseSeparableASPPHead":
            return SepASPPHead(
                **common,
                in_index=kwargs["in_index"],
                dilations=tuple(kwargs["dilations"]),
                c1_channels=kwargs["c1_channels"],
            )
        case "UPerHead":
            return UPerHead(**common, pool_scales=tuple(kwargs["pool_scales"]))
    raise ValueError(f"no head of ours for {meta['class']}")


@pytest.mark.parametrize(
    ("name", "which"),
    [
        ("head_fcn_odd", "part"),
        ("head_fcn_odd", "whole"),
        ("head_fcn_resizeconcat_odd_ac0", "whole"),
        ("head_psp_odd_ac0", "whole"),
        ("head_psp_tiny_5x7", "whole"),
        ("head_aspp_odd_ac0", "whole"),
        ("head_aspp_tiny_5x7", "whole"),
        ("head_sepaspp_odd_ac0", "whole"),
        ("head_uper_odd_ac0", "whole"),
    ],
)
@pytest.mark.usefixtures("platform_form")
def test_head_equals_the_reference(golden, name, which):
    case = golden(name, which)
    features = [case[f"in/{i}"].transpose(0, 2, 3, 1) for i in range(4)]
    head = make_head(case.meta)
    variables = import_weights(head, case.group("sd"), jax.eval_shape(head.init, jax.random.key(0), features))
    logits, expected = jax.jit(head.apply)(variables, features)["logits"], case["out/0"].transpose(0, 2, 3, 1)
    if "part" in case.meta:  # the others also depend on features that the part lacks
        logits = logits[:, : expected.shape[1], : expected.shape[2]]
    assert_close_to_reference(logits, expected)


@pytest.mark.parametrize(("name", "make"), [("smp_unet", UNetHead), ("smp_linknet", LinkNetHead), ("smp_fpn", FPNHead)])
@pytest.mark.usefixtures("platform_form")
def test_head_equals_that_of_segmentation_models_pytorch(golden, name, make):
    """A decoder and its classifier, as it makes them for encoders without a map of stride 2."""
    case = golden(name)
    features = [case[f"in/{i}"].transpose(0, 2, 3, 1) for i in range(4)]
    head = make(**case.meta["kwargs"])
    variables = import_weights(head, case.group("sd"), jax.eval_shape(head.init, jax.random.key(0), features))
    outputs, expected = jax.jit(head.apply)(variables, features), case["out/0"].transpose(0, 2, 3, 1)
    assert_close_to_reference(head.scores(outputs, expected.shape[1:3]), expected)
