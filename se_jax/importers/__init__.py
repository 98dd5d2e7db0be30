"""PyTorch checkpoints -> variables: a table of (pattern, our path, layout) a family, and what applies them."""

from se_jax.importers.convert import import_segmentor

__all__ = ["import_segmentor"]
