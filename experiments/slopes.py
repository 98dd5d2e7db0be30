"""Gradients of the weights behind each branch of a fusion site, beside what their scales predict.

The paper's argument: of y = w_1 x_1 + w_2 x_2, dy/dw_i is x_i, so gradients stand to each other as the scales of the
branches do.
"""

import jax
import numpy as np
from flax import traverse_util

from experiments import arms
from experiments.heads import Head
from se_jax import parallel
from se_jax.equalizer.sites import find_sites

BATCH = 8  # images of a gradient


class Slopes:
    """Measures the gradients of one head, compiled once.

    Attributes:
      sites: path of a site -> {branch key: channels}, of those that a convolution follows.
    """

    def __init__(self, head: Head):
        self.head, self.sites = head, {}
        params = head.begun.variables["params"]
        for site in find_sites(head.decoder, head.pool.take(slice(0, BATCH))[0]):
            try:
                arms.kernel(params, site.path)
            except ValueError:  # a sum, which has no weights
                continue
            self.sites[site.path] = site.branches
        self._gradient = parallel.jit(jax.grad(head.loss_of, has_aux=True))

    def rows(self, state, measured: dict, images: int) -> list[dict]:
        """A row for every branch, over the pool's first `images` images.

        Args:
          state: a TrainState of the head. measured: the branches' rows, as of `variance.Meter`.

        Returns:
          site, branch, std; gradient and weights: root mean squares over the block of weights, the gradient's also over
          batches; ratio of the gradient to that of the site's first branch, and the one predicted: that of the
          standard deviations that the convolution sees.
        """
        squares, batches = {}, range(0, images, BATCH)
        for first in batches:
            batch = self.head.pool.take(slice(first, first + BATCH))
            gradient, _ = self._gradient(*state[1:4], jax.random.key(0), *batch)
            for name, block in self._blocks(gradient).items():
                squares[name] = squares.get(name, 0.0) + np.mean(np.square(block)) / len(batches)
        slopes = {name: float(np.sqrt(value)) for name, value in squares.items()}
        seen = {name: self._seen(*name, measured, state) for name in slopes}
        weights = {
            name: float(np.sqrt(np.mean(np.square(block)))) for name, block in self._blocks(state.params).items()
        }

        def row(path, branch):
            name, first = (path, branch), (path, next(iter(self.sites[path])))
            found = {"site": "/".join(path), "branch": branch, "std": measured[path][branch]["std_after"]}
            found |= {"gradient": slopes[name], "weights": weights[name]}
            return found | {"ratio": slopes[name] / slopes[first], "predicted": seen[name] / seen[first]}

        return [row(*name) for name in slopes]

    def _blocks(self, params) -> dict:
        """{(path of a site, branch key): block of the kernel behind it}."""
        flat = traverse_util.flatten_dict(self.head.begun.view(params["decoder"]))
        found = {}
        for path, branches in self.sites.items():
            blocks = arms.blocks(flat[arms.kernel(params["decoder"], path)], list(branches.values()))
            found |= {(path, key): block for key, block in zip(branches, blocks, strict=True)}
        return found

    def _seen(self, path, branch: str, measured: dict, state) -> float:
        """The std of a branch as the convolution sees it: behind an explicit equalizer."""
        std, node = measured[path][branch]["std_after"], state.constants.get("equalizer", {})
        for part in (*path, branch):
            node = node.get(part, {})
        return std / float(node["std"].mean()) if node else std
