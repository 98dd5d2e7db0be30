"""se_jax: scale equalizers for multi-level feature fusion, and the semantic-segmentation library around them."""
