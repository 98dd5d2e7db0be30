"""DINOv2-S and transformers' implementation of it: time of a forward pass and of a training step.

python -m experiments.benchmark_encoder --size=224 --batch=2

Random images whose sides are multiples of 14, float32, the same weights on both sides, which are checked to compute the
same: the last block's map behind the last norm. The step is of the mean square of that map, by AdamW. The sides take
turns in one process; times are minima over the turns, and a busy machine falsifies them. Needs PyTorch and
transformers, neither TensorFlow nor a data set.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmark_masks import add_clock, compare
from se_jax import parallel
from se_jax.importers import import_weights
from se_jax.models import ViT

RATE = 1e-4


class Ours:
    """Our pass with their weights, compiled; `run()` does one."""

    def __init__(self, theirs: "Theirs"):
        side, images = theirs.model.config.image_size, jnp.asarray(theirs.images.numpy().transpose(0, 2, 3, 1))
        model, optimizer = ViT("dinov2_small", size=side), optax.adamw(RATE)
        tensors = {name: tensor.detach().numpy() for name, tensor in theirs.model.state_dict().items()}
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        variables = jax.device_put(import_weights(model, tensors, shapes, "transformers_modules"))

        def forward(variables, images):
            return model.apply(variables, images)[0]

        def step(state, images):
            variables, moments = state
            loss, gradients = jax.value_and_grad(lambda v: jnp.mean(forward(v, images) ** 2))(variables)
            updates, moments = optimizer.update(gradients, moments, variables)
            return (optax.apply_updates(variables, updates), moments), loss

        self.trains, self.images = theirs.trains, images
        self.state = (variables, optimizer.init(variables)) if self.trains else variables
        program = parallel.jit(step, donate_argnums=0) if self.trains else parallel.jit(forward)
        self.function = program.lower(self.state, images).compile()

    def run(self):
        if not self.trains:
            return jax.block_until_ready(self.function(self.state, self.images))
        self.state, loss = self.function(self.state, self.images)
        return float(loss)


class Theirs:
    """The same pass of transformers' Dinov2Model."""

    def __init__(self, flags, trains: bool):
        import torch
        import transformers

        torch.manual_seed(0)
        sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": flags.size}
        self.model, self.trains = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).train(trains), trains
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, weight_decay=1e-4)
        self.images = torch.randn(flags.batch, 3, flags.size, flags.size)

    def forward(self):
        x = self.model(pixel_values=self.images).last_hidden_state[:, 1:]
        side = self.images.shape[-1] // 14
        return x.reshape(len(x), side, side, -1)

    def run(self):
        import torch

        if not self.trains:
            with torch.no_grad():
                return self.forward()
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.forward() ** 2).mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def main(flags) -> None:
    for trains, what in ((False, "a forward pass"), (True, "a step")):
        theirs = Theirs(flags, trains)
        ours = Ours(theirs)
        found, expected = np.asarray(ours.run()), np.asarray(theirs.run())
        error = float(np.abs(found - expected).max() / (1 if trains else expected.std()))
        if not error <= 1e-3:
            raise ValueError(f"the two sides' results of {what} differ by {error:.1e}, allowed 1e-3")
        print(f"{what}: both sides agree to {error:.0e}", flush=True)
        compare({"ours": ours, "transformers": theirs}, flags, what)


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark_encoder", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="height and width of the images, a multiple of 14")
    parser.add_argument("--batch", type=int, default=2, help="images a pass")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which each side does a pass")
    add_clock(parser)
    flags = parser.parse_args(arguments)
    if flags.size % 14:
        parser.error(f"--size is {flags.size}; expected a multiple of the patch, 14")
    return flags


if __name__ == "__main__":
    main(parse_flags())
