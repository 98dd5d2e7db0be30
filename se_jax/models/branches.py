"""The maps inside a network, by name: the encoder's levels, every branch as it enters a fusion, the logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from se_jax.equalizer.fusion import Fusion
from se_jax.models.segmenter import Segmenter


def branch_maps(model: Segmenter, variables, images) -> dict[str, jax.Array]:
    """Runs a network in inference mode on normalised images [b, h, w, 3].

    Returns:
      {'encoder/0': its finest level, ..., 'SITE/BRANCH': each branch of each fusion site, not resized and not equalized
      yet, ..., 'logits'}, in the order in which they are computed.
    """
    found = {}

    def watch(call, arguments, options, context):
        result = call(*arguments, **options)
        if context.method_name != "__call__":
            return result
        if context.module.path == ("encoder",):
            found.update({f"encoder/{level}": x for level, x in enumerate(result)})
        elif isinstance(context.module, Fusion):
            found.update({f"{context.module.name}/{branch}": x for branch, x in arguments[0].items()})
        return result

    with nn.intercept_methods(watch):
        outputs: dict = model.apply(variables, images)  # pyright: ignore[reportAssignmentType]
    return found | {"logits": outputs["logits"]}


def branch_names(model: Segmenter, variables, size: tuple[int, int]) -> list[str]:
    """The names of `branch_maps` for images of that (height, width); nothing is computed."""
    images = jax.ShapeDtypeStruct((1, *size, model.channels), jnp.float32)
    names = []  # kept while tracing: what comes out of it is sorted

    def trace(variables, images):
        found = branch_maps(model, variables, images)
        names.extend(found)
        return found

    jax.eval_shape(trace, variables, images)
    return names
