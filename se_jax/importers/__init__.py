"""PyTorch checkpoints <-> variables: a table of (pattern, our path, layout) a family, and what applies them."""

from se_jax.importers.convert import export_weights, import_weights, load
from se_jax.importers.start import is_folded, normalization_of, start_from

__all__ = ["export_weights", "import_weights", "is_folded", "load", "normalization_of", "start_from"]
