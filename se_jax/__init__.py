"""se_jax: scale equalizers for multi-level feature fusion, and the semantic-segmentation library around them.

import se_jax
model = se_jax.build(config.model)                 # a network, ready for model.init / model.apply
mask = se_jax.load("runs/camvid").predict(image)   # a trained one: uint8 [h,w,3] RGB -> uint8 [h,w] class ids
"""

import importlib

__version__ = "0.1.0"
__all__ = ["build", "load"]

# Imported on first use: `import se_jax` stays light, and each room of the package can be used without the others.
_HOMES = {"build": "se_jax.models", "load": "se_jax.predict"}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'se_jax' has no attribute {name!r}")
