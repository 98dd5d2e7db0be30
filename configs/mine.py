"""Images of your own, ResNet-50 V1c of output stride 32, UPer head (UPerNet); sizes follow from the images.

python -m se_jax.main --config=configs/mine.py:DIR --workdir=runs/mine

DIR holds images/{train,val}, annotations/{train,val} and classes.json (docs/labels.md), which names the classes. Images
keep their own size, but are fitted to a shorter side of 1024 pixels if theirs is above; crops are at most 512 x 512.
Steps and batch are a start: --config.num_steps=, --config.data.batch_size=; weights to start from: --config.init_from=.
"""

from se_jax.config import networks, options, own_data


def get_config(directory: str = ""):
    """The config for the data set in `directory`."""
    if not directory:
        raise ValueError("configs/mine.py needs the directory of your data set: --config=configs/mine.py:mydata")
    config = networks.combined(options.get_config(), options.encoder("resnet"), options.decoder("uper"))
    config = own_data.folder(config, directory)
    config.num_steps, config.data.batch_size = 4000, 8
    config.eval.every_steps = config.checkpoint.every_steps = 500
    return config
