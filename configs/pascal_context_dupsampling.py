"""PASCAL Context of 59 classes, DUpsampling (CVPR 2019) on Xception-71 or -65 or ResNet-50 of output stride 16.

python -m se_jax.dupsample_fit --config=configs/pascal_context_dupsampling.py --config.data.dir=DIR \\
    --workdir=runs/pascal_context_fit
python -m se_jax.main --config=configs/pascal_context_dupsampling.py --config.data.dir=DIR \\
    --config.constants_from=runs/pascal_context_fit --config.init_from=FILE --workdir=runs/pascal_context_dupsampling

16 crops of 513x513 a step, 30k steps; networks.dupsampling says what is the paper's and what is not. With 59 classes a
window has 15104 numbers, which are fitted by subspace iteration. Equalizers are explicit, at the ASPP's concatenation.

The paper prints mIoU 52.5 with Xception-71 and 51.4 with Xception-65, and does not say whether of 59 or 60 classes; 59
is our choice. Meant for GPUs or TPU cores; not trained yet, so no mIoU of ours is known.
"""

from se_jax.config import networks

VARIANTS = ("xception71", "xception65", "resnet50")


def get_config(variant: str = VARIANTS[0]):
    """The config of one of VARIANTS."""
    name, _ = networks.parse(variant, VARIANTS)
    return networks.dupsampling(name, "pascal_context", 59)
