"""Checkpoints whose encoder is the difference to another one, which may be shared when the whole may not.

As tue-mps publishes EoMT on DINOv3: trained minus Meta's weights in the encoder, whole weights in the head.
"""

import jax
import numpy as np

from se_jax.importers import convert


def add(imported: convert.Imported, path, model) -> convert.Imported:
    """`imported`, of a whole network, with the encoder's parameters of the checkpoint at `path` added to its own.

    Raises:
      ValueError: it does not fit the encoder; names what differs. OSError: it cannot be read.
    """
    params = imported.variables["params"]
    blank = jax.tree.map(np.zeros_like, params["encoder"])
    base = convert.load(path, model.encoder, {"params": blank}).variables["params"]
    return imported._replace(
        variables=imported.variables | {"params": params | {"encoder": jax.tree.map(np.add, params["encoder"], base)}}
    )
