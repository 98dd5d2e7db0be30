"""Mask2Former, EoMT and transformers' implementations of them: time of a forward pass, time and memory of a step.

python -m experiments.benchmark_masks --network=mask2former --size=512 --batch=2 [--passes=forward,step]
python -m experiments.benchmark_masks --network=eomt --size=256 --batch=2

150 classes, random images, float32. The forward pass has the same weights on both sides, read by the import tables,
after both are checked to compute the same: the last prediction's classes and masks at stride 4. The step has random
labels, matching and losses in it, and AdamW with cut gradients.

Mask2Former's forward pass is on Swin-T, its step on ResNet-50. (Theirs has the masks of all ten predictions on the way,
ours only what attention needs of them.) EoMT is on DINOv2-S with registers, patches of 16 and three blocks with
queries; its forward pass is as in a test, without masks on the way on either side; in its step half of the queries are
masked.

The sides take turns in one process; times are minima over the turns, and a busy machine falsifies them. Memory is what
a step needs beyond an idle process: of ours what XLA says of the compiled program (arguments, results and temporaries);
of PyTorch how much a process of its own grows from before the network is made to the highest point of a second step.
Needs PyTorch and transformers, neither TensorFlow nor a data set.
"""

import argparse
import functools
import multiprocessing
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import Candidate, take_turns
from se_jax import losses, parallel
from se_jax.config import datasets, networks
from se_jax.importers import import_weights
from se_jax.models import build
from se_jax.training import optimizers, state
from se_jax.training.step import make_train_step

CLASSES = 150
STEPS = 1000


def make_batch(flags) -> dict[str, np.ndarray]:
    """Images, and labels of ten classes each in blocks, as those of ADE20K have about ten."""
    rng = np.random.default_rng(0)
    side = flags.size // 8
    blocks = np.stack([rng.choice(rng.choice(CLASSES, 10, False), (8, 8)) for _ in range(flags.batch)])
    label = np.kron(blocks, np.ones((side, side))).astype(np.uint8)
    image = rng.integers(0, 256, (*label.shape, 3)).astype(np.uint8)
    return {"image": image, "label": label, "size": np.tile(np.int32(label.shape[1:]), (flags.batch, 1))}


def mask2former(flags, what: str):
    """(config, how to make transformers' network) of a 'forward' pass or of a 'step'."""
    import transformers

    stages = [f"stage{i}" for i in range(1, 5)]
    if what == "forward":
        name, theirs = "swin_tiny", transformers.SwinConfig(image_size=224, drop_path_rate=0.3, out_features=stages)
    else:
        name, theirs = "r50", transformers.ResNetConfig(out_features=stages)
    config = networks.mask2former(datasets.ade20k(), name)
    config.model.encoder.frozen_norm = False  # as transformers has it
    if name == "swin_tiny":
        del config.model.encoder.frozen_norm

    def make():
        options = transformers.Mask2FormerConfig(backbone_config=theirs, num_labels=CLASSES)
        return transformers.Mask2FormerForUniversalSegmentation(options)

    return config, make


def eomt(flags, what: str):
    """Likewise."""
    import transformers

    config = networks.eomt(datasets.ade20k(flags.size), "dinov2_small")
    config.model.remat, blocks = False, config.model.decoder.blocks
    config.model.decoder.anneal = ((0.0, 1.0),) * blocks  # the step is in the middle of the run

    def make():
        sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": flags.size}
        options = transformers.EomtConfig(**sizes, num_blocks=blocks, num_queries=100, num_labels=CLASSES)
        model = transformers.EomtForUniversalSegmentation(options)
        model.attn_mask_probs.fill_(0.0 if what == "forward" else 0.5)
        return model

    return config, make


NETWORKS = {"mask2former": (mask2former, "transformers_modules"), "eomt": (eomt, "eomt_transformers")}


def made(flags, what: str):
    """(config, how to make transformers' network, the layout of its names)."""
    make, layout = NETWORKS[flags.network]
    config, theirs = make(flags, what)
    config.model.dtype, config.model.equalizer.mode = "float32", "none"
    return config, theirs, layout


class OurForward:
    """Our forward pass with their weights, compiled."""

    def __init__(self, flags, theirs: "TheirForward"):
        config, _, layout = made(flags, "forward")
        model = build(config.model)
        images = jnp.asarray(theirs.images.numpy().transpose(0, 2, 3, 1))
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        tensors = {name: tensor.numpy() for name, tensor in theirs.model.state_dict().items()}
        variables = jax.device_put(import_weights(model, tensors, shapes, layout))

        def forward(variables, images):
            outputs = model.apply(variables, images)
            embeddings, features = outputs["mask_embeddings"][-1], outputs["mask_features"]
            features = features[-1] if features.ndim == 5 else features
            return outputs["class_logits"][-1], jnp.einsum("bqc,bhwc->bqhw", embeddings, features)

        self.function = parallel.jit(forward).lower(variables, images).compile()
        self.arguments = variables, images

    def run(self):
        return jax.block_until_ready(self.function(*self.arguments))


class TheirForward:
    """The forward pass of transformers' network."""

    def __init__(self, flags):
        import torch

        torch.manual_seed(0)
        self.model = made(flags, "forward")[1]().eval()
        self.images = torch.randn(flags.batch, 3, flags.size, flags.size)

    def run(self):
        import torch

        with torch.no_grad():
            outputs = self.model(pixel_values=self.images)
        return outputs.class_queries_logits, outputs.masks_queries_logits


class Ours:
    """Our step, compiled; `run()` does one."""

    def __init__(self, flags):
        config, _, _ = made(flags, "step")
        model = build(config.model)
        tx, schedule = optimizers.build(config.optimizer, STEPS)
        images = jnp.zeros((1, flags.size, flags.size, 3))
        variables = parallel.jit_once(model.init)(jax.random.key(0), images)
        self.batch = jax.device_put(make_batch(flags))
        self.state = state.create(variables, tx)._replace(step=jnp.int32(STEPS // 2))
        step = make_train_step(model, tx, schedule, config, losses.build(config.loss, model))
        start = time.perf_counter()
        self.step = parallel.jit(step, donate_argnums=0).lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - start

    def run(self):
        self.state, measured = self.step(self.state, self.batch)
        return float(measured["loss"])

    def memory(self) -> int:
        sizes = self.step.memory_analysis()
        kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return kept + sizes.temp_size_in_bytes


class Theirs:
    """The step of transformers' network, with its own loss and scipy's assignment."""

    def __init__(self, flags):
        import torch

        torch.manual_seed(0)
        self.model = made(flags, "step")[1]().train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, weight_decay=0.05)
        batch = make_batch(flags)
        self.images = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1)
        self.classes = [torch.from_numpy(np.unique(label).astype(np.int64)) for label in batch["label"]]
        self.masks = [
            torch.from_numpy((label == ids.numpy()[:, None, None]).astype(np.float32))
            for label, ids in zip(batch["label"], self.classes, strict=True)
        ]

    def run(self):
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(pixel_values=self.images, mask_labels=self.masks, class_labels=self.classes).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.01)
        self.optimizer.step()
        return float(loss.detach())


def resident(kind: str) -> int:
    """Bytes of this process: 'VmRSS' now, 'VmHWM' at the highest."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def _their_memory(flags, queue) -> None:
    import torch  # noqa: F401  both are counted as the idle process
    import transformers

    # modules are loaded when they are named
    transformers.Mask2FormerForUniversalSegmentation, transformers.EomtForUniversalSegmentation  # noqa: B018
    idle = resident("VmRSS")
    theirs = Theirs(flags)
    theirs.run()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the highest point
    theirs.run()
    queue.put(resident("VmHWM") - idle)


def their_memory(flags) -> int:
    """Bytes, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=functools.partial(_their_memory, flags, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def add_clock(parser) -> None:
    parser.add_argument(
        "--processor_time", action="store_true", help="time by the processor's clock, on one core that others use too"
    )


def forward(flags) -> None:
    theirs = TheirForward(flags)
    sides = {"ours": OurForward(flags, theirs), "transformers": theirs}
    for ours, expected in zip(sides["ours"].run(), theirs.run(), strict=True):
        error = float(np.abs(np.asarray(ours) - expected.numpy()).max() / expected.numpy().std())
        if not error <= 0.05:  # a pixel of an attention mask that falls on the other side changes a little of all
            raise ValueError(f"the two sides differ by {error:.1e} standard deviations, allowed 0.05")
        print(f"both sides agree to {error:.0e} standard deviations", flush=True)
    compare(sides, flags, "a forward pass")


def compare(sides: dict, flags, what: str) -> None:
    """Times both sides in turns."""
    clock = time.process_time if flags.processor_time else time.perf_counter
    turns = take_turns([Candidate(name, side.run, {}) for name, side in sides.items()], flags.repeats, clock)
    for name, times in turns.items():
        print(f"{name}: {min(times):.3f} s {what} ({', '.join(f'{t:.3f}' for t in times)})")
    print(f"ours / theirs {min(turns['ours']) / min(turns['transformers']):.2f}", flush=True)


def step(flags) -> None:
    ours = Ours(flags)
    print(f"ours: compiled in {ours.compile_seconds:.0f} s, {ours.memory() / 1e6:.0f} MB a step", flush=True)
    memory = their_memory(flags)
    print(f"transformers: {memory / 1e6:.0f} MB a step; ours / theirs {ours.memory() / memory:.2f}", flush=True)
    compare({"ours": ours, "transformers": Theirs(flags)}, flags, "a step")


PASSES = {"forward": forward, "step": step}


def main(flags) -> None:
    for name in flags.passes.split(","):
        PASSES[name](flags)


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark_masks", description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="mask2former", help="which of them")
    parser.add_argument("--size", type=int, default=512, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=2, help="images a pass")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which each side does a pass")
    add_clock(parser)
    parser.add_argument("--passes", default=",".join(PASSES), help="of forward, step; by commas")
    flags = parser.parse_args(arguments)
    if unknown := set(flags.passes.split(",")) - set(PASSES):
        parser.error(f"--passes names {', '.join(sorted(unknown))}; expected some of {', '.join(PASSES)}")
    return flags


if __name__ == "__main__":
    main(parse_flags())
