"""The networks that the benchmark measures: every encoder with its usual head, and ResNet with every head."""

from typing import NamedTuple

import jax.numpy as jnp

from se_jax.equalizer.fusion import Equalizer
from se_jax.models import DECODERS, ENCODERS, FCNHead, Segmenter

NUM_CLASSES = 19


class Network(NamedTuple):
    """One network of the benchmark.

    Attributes:
      encoder, head: their names in a config; options: of the encoder; head_options: of the head, beside its channels.
      auxiliary: whether training adds the auxiliary head.
      sites: fusion sites that are equalized; None: those that are by default.
    """

    encoder: str
    head: str
    options: dict = {}
    head_options: dict = {}
    auxiliary: bool = True
    sites: tuple[str, ...] | None = None


RESIZE_CONCAT = {"channels": 270, "num_convs": 1, "kernel_size": 1, "concat_input": False, "resize_concat": True}
NETWORKS = {
    # an FCN head on one map resizes nothing, so its site is off unless named
    "resnet_fcn": Network("resnet", "fcn", {"output_stride": 8}, sites=("concat_input",)),
    "resnet_psp": Network("resnet", "psp", {"output_stride": 8}),
    "resnet_aspp": Network("resnet", "aspp", {"output_stride": 8}),
    "resnet_sep_aspp": Network("resnet", "sep_aspp", {"output_stride": 8}),
    "resnet_uper": Network("resnet", "uper", {"output_stride": 32}),
    "swin_uper": Network("swin", "uper", {"variant": "tiny"}),
    "convnext_uper": Network("convnext", "uper", {"variant": "tiny"}),
    "twins_uper": Network("twins", "uper", {"variant": "pcpvt_small"}),
    "mit_segformer": Network("mit", "segformer", {"variant": "b0"}, {"channels": 256}, auxiliary=False),
    "mobilenetv2_fcn": Network("mobilenetv2", "fcn", {"output_stride": 8}, sites=("concat_input",)),
    "hrnet_fcn": Network("hrnet", "fcn", {"variant": "w18"}, RESIZE_CONCAT, auxiliary=False),
    "efficientnet_segformer": Network("efficientnet", "segformer", {"variant": "b1"}, {"channels": 256}, False),
    "efficientnet_lite_uper": Network("efficientnet", "uper", {"variant": "lite0"}, {"channels": 64}, auxiliary=False),
    # images of the default 256 x 256 pixels have no P9
    "efficientnet_eseg": Network("efficientnet", "eseg", {"variant": "b1"}, {"channels": 96, "top_level": 8}, False),
    "mit_vwformer": Network("mit", "vwformer", {"variant": "b2"}, {"channels": 512}, auxiliary=False),
    "xception_sep_aspp": Network("xception", "sep_aspp", {"variant": "65"}, {"dilations": (1, 6, 12, 18)}),
    "xception_dupsampling": Network(
        "xception", "dupsampling", {"variant": "65"}, {"channels": 256, "codes": 128}, False
    ),
}


def make_model(name: str, mode: str, *, width: int = 64, depth: int = 50, dtype="float32") -> Segmenter:
    """The network of that name with its equalizer in `mode`.

    Args:
      width: base channels of a ResNet; a head whose channels are not given has 8 times as many.
      depth: of a ResNet.
    """
    network, dtype = NETWORKS[name], jnp.dtype(dtype)
    options = network.options | ({"depth": depth, "width": width} if network.encoder == "resnet" else {})
    decoder = DECODERS[network.head](
        NUM_CLASSES,
        **({"channels": 8 * width} | network.head_options),
        equalizer=Equalizer(mode, sites=network.sites),
        dtype=dtype,
    )
    auxiliary = None
    if network.auxiliary:
        auxiliary = FCNHead(NUM_CLASSES, 4 * width, in_index=2, num_convs=1, concat_input=False, dtype=dtype)
    return Segmenter(ENCODERS[network.encoder](**options, dtype=dtype), decoder, auxiliary)
