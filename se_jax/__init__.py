"""se_jax: scale equalizers for multi-level feature fusion, and the semantic-segmentation library around them.

import se_jax
network = se_jax.build(config.model)                # a network, ready for network.init / network.apply
mask = se_jax.load("runs/camvid").predict(image)    # a trained one: uint8 [h, w, 3] RGB -> uint8 [h, w] class ids
variables, rows = se_jax.equalize(network, variables, batches)      # calibrates any Linen module that fuses branches

Names are imported on first use: `import se_jax` stays light, and each room of the package can be used without the
others. `se_jax.config.options.get_config()` has every option of a run, with its default.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
