"""PASCAL VOC 2012, DUpsampling (CVPR 2019) on DeepLab's ResNet-50, Xception-65 or Xception-71 of output stride 16.

python -m se_jax.dupsample_fit --config=configs/voc2012_dupsampling.py:resnet50 --config.data.dir=DIR \\
    --workdir=runs/voc2012_fit
python -m se_jax.main --config=configs/voc2012_dupsampling.py:resnet50 --config.data.dir=DIR \\
    --config.constants_from=runs/voc2012_fit --config.init_from=FILE --workdir=runs/voc2012_dupsampling

16 crops of 513x513 a step, 30k steps; networks.dupsampling says what is the paper's and what is not. The fit of 64
codes serves resnet50, that of 128 (:xception65) both others. Equalizers are explicit, at the ASPP's concatenation;
--config.model.equalizer.sites=low0,low1 names those of the aggregator, where none should matter. The control is
SepASPPHead (decoder 'sep_aspp' with bottleneck_size=1, and dense=True for a live equalizer).

The paper prints, on the validation set, an upper bound of 99.95 percent (98.40 by bilinear upsampling), and mIoU 74.20
with ResNet-50 and 79.67 with Xception-65; how its encoders were trained is not known.

Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import networks

VARIANTS = ("resnet50", "xception65", "xception71")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.dupsampling(name, "voc2012", 21)
