"""CamVid, ResNet-50 V1c of output stride 8, FCN head on all four stages, resized to the first and concatenated.

python -m se_jax.main --config=configs/camvid_fcn.py --config.data.dir=DIR --workdir=runs/camvid_fcn

Meant for one GPU; not run yet, so no time and no mIoU are known.
"""

from se_jax.config import datasets, options

# HRNet's form of the head: the one with a fusion site, where the plain form only convolves the last stage
FUSED_STAGES = options.decoder("fcn", num_convs=1, kernel_size=1, concat_input=False, resize_concat=True, dropout=0.0)


def get_config():
    """The config of this experiment."""
    return datasets.camvid(FUSED_STAGES)
