"""Decoder heads: a tuple of encoder features, finest first -> logits at the head's own resolution."""

from se_jax.models.decoders.aspp import ASPPHead
from se_jax.models.decoders.dupsampling import DUpsamplingHead
from se_jax.models.decoders.eomt import EoMTHead
from se_jax.models.decoders.eseg import ESegHead
from se_jax.models.decoders.fcn import FCNHead
from se_jax.models.decoders.fpn import FPNHead
from se_jax.models.decoders.linear import LinearHead
from se_jax.models.decoders.linknet import LinkNetHead
from se_jax.models.decoders.mask2former import Mask2FormerHead
from se_jax.models.decoders.psp import PSPHead
from se_jax.models.decoders.segformer import SegformerHead
from se_jax.models.decoders.sep_aspp import SepASPPHead
from se_jax.models.decoders.unet import UNetHead
from se_jax.models.decoders.uper import UPerHead
from se_jax.models.decoders.vw_mask2former import VWMask2FormerHead
from se_jax.models.decoders.vwformer import VWFormerHead

__all__ = [
    "ASPPHead",
    "DUpsamplingHead",
    "ESegHead",
    "EoMTHead",
    "FCNHead",
    "FPNHead",
    "LinkNetHead",
    "LinearHead",
    "Mask2FormerHead",
    "PSPHead",
    "SegformerHead",
    "SepASPPHead",
    "UNetHead",
    "UPerHead",
    "VWFormerHead",
    "VWMask2FormerHead",
]
