"""Speed of the networks without equalizers, with explicit and with folded ones, and of the same networks in PyTorch.

python -m experiments.benchmark --networks=resnet_aspp,swin_uper --size=256 --batch=2 --output=/tmp/benchmark

For each network of `experiments.networks`: time of a forward pass (inference, logits at the head's resolution) and of
forward + backward (training mode: batch statistics, dropout, auxiliary head, cross entropy at full resolution),
images/s, compile time, memory (arguments, results and temporaries of the compiled program) and FLOPs. With PyTorch
installed (`pip install -r requirements-bench.txt`) the same networks run there too, in the same process and with the
same weights, after both are checked to compute the same logits; heads without a PyTorch twin run alone. All candidates
take turns and times are minima over the turns; a busy machine still falsifies them, PyTorch's most, whose threads wait
for each other. There, measure on one core by the processor's clock (`taskset -c 0 ... --processor_time`). Needs neither
TensorFlow nor a data set.

On a GPU a whole training step (with SGD) is timed too, PyTorch runs through torch.compile (with bfloat16 by autocast
where --dtype=bfloat16), and the share of the card's peak is given; cuDNN chooses PyTorch's algorithms by trial, as
XLA chooses its own.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import networks
from experiments.networks import NETWORKS, NUM_CLASSES
from se_jax import parallel
from se_jax.equalizer import fold
from se_jax.equalizer.sites import find_sites, identity_statistics
from se_jax.importers import import_weights
from se_jax.losses import PixelCrossEntropy

try:
    import torch

    from experiments import torch_networks
except ImportError:
    torch = None

MODES = {"baseline": "none", "explicit": "explicit", "folded": "folded"}
PASSES = ("forward", "forward+backward", "train step")
AUXILIARY_WEIGHT = 0.4
AUXILIARY = PixelCrossEntropy(output="auxiliary", term="loss_auxiliary", weight=AUXILIARY_WEIGHT)
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
# Dense bfloat16 peak of a card, TFLOP/s, by a part of its name (NVIDIA's data sheets).
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40": 362, "L4": 121, "A10": 125, "RTX 4090": 165}


class Candidate(NamedTuple):
    """One thing to time: `run()` blocks until it is done; `facts` are what is known of it beforehand."""

    side: str
    run: Callable[[], Any]
    facts: dict


def make_model(name: str, flags, mode: str):
    return networks.make_model(name, mode, width=flags.width, depth=flags.depth, dtype=flags.dtype)


def make_peer(name: str, flags):
    """(the same network in PyTorch in training mode, the layout of its encoder's names)."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    if network.encoder == "resnet":
        layout, encoder = "mmseg", torch_networks.ResNet(flags.depth, width=flags.width, **network.options)
    else:
        from experiments import torch_encoders  # which needs timm and torchvision besides

        variant = [network.options["variant"]] if network.encoder == "efficientnet" else []
        encoder = torch_encoders.ENCODERS[network.encoder](*variant)
        layout = encoder.layout
    options = {"channels": 8 * flags.width} | network.head_options
    auxiliary = 4 * flags.width if network.auxiliary else None
    peer = torch_networks.Segmentor(encoder, network.head, NUM_CLASSES, auxiliary_channels=auxiliary, **options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch_networks.randomize(peer).to(device, memory_format=torch.channels_last), layout


def tensors_of(peer, layout: str) -> dict[str, np.ndarray]:
    """The peer's tensors by the names that the import tables know."""
    state = peer.state_dict()
    if layout != "mmseg" or hasattr(peer.backbone, "layout"):
        from experiments import torch_encoders

        state = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
        state |= {f"backbone.{name}": t for name, t in torch_encoders.state_dict(peer.backbone).items()}
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}


def make_variables(name: str, flags, peer=None, layout: str = "mmseg") -> dict[str, dict]:
    """Variables by side: the peer's weights, or drawn ones, and made-up equalizer statistics.

    'folded' is missing where a site is a sum, behind which no convolution takes the statistics.
    """
    explicit = make_model(name, flags, "explicit")
    shapes = jax.eval_shape(explicit.init, jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
    if peer is None:
        variables = parallel.jit_once(explicit.init)(jax.random.key(0), jnp.zeros((2, 64, 64, 3)))
    else:
        variables = import_weights(explicit, tensors_of(peer, layout), shapes, layout)
    rng = np.random.default_rng(0)
    identity = identity_statistics(find_sites(explicit, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)))
    equalizer = jax.tree.map(lambda leaf: rng.uniform(0.3, 0.9, leaf.shape).astype(np.float32), identity)
    variables = jax.device_put({**variables, "equalizer": equalizer})
    baseline = {name: value for name, value in variables.items() if name != "equalizer"}
    sides = {"baseline": baseline, "explicit": variables}
    return sides | ({"folded": fold.fold(variables)} if fold.can_fold(variables) else {})


def forward(model):
    return lambda variables, images: model.apply(variables, images)["logits"]


def forward_backward(model):
    def function(variables, images, labels, key):
        def loss(params):
            out, new = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            batch, terms = {"label": labels}, {}
            for part in (PixelCrossEntropy(), AUXILIARY) if "auxiliary" in out else (PixelCrossEntropy(),):
                terms |= part(out, {}, batch, part.normalizer(batch), key)
            return sum(terms.values()), new["batch_stats"]

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return function


def train_step(model):
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)

    def function(variables, images, labels, key):
        variables, momentum = variables
        loss, gradients = forward_backward(model)(variables, images, labels, key)
        updates, momentum = optimizer.update(gradients, momentum)
        return loss, optax.apply_updates(variables["params"], updates), momentum

    return function, optimizer


def jax_candidate(side: str, function, arguments) -> Candidate:
    """Compiles `function` for `arguments`, timed."""
    lowered = parallel.jit(function).lower(*arguments)
    start = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    sizes = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes
    facts = {"compile_s": seconds, "memory_bytes": sum(sizes), "flops": count_flops(function, arguments)}
    return Candidate(side, lambda: jax.block_until_ready(compiled(*arguments)), facts)


def count_flops(function, arguments) -> float | None:
    """FLOPs of the program before XLA's optimisation, as the CPU's compiler counts them.

    A GPU's compiled program hides convolutions in library calls, and its compiler counts no program that is not
    compiled.
    """
    cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cpu), arguments)
    return (jax.jit(function).lower(*shapes).cost_analysis() or {}).get("flops")


def torch_candidate(kind: str, peer, images, labels, dtype: str) -> Candidate:
    device = next(peer.parameters()).device
    cuda = device.type == "cuda"
    images = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)  # channels_last by its strides
    labels = torch.from_numpy(labels).long().to(device)
    network = torch.compile(peer) if cuda else peer
    cast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    optimizer = torch.optim.SGD(peer.parameters(), LEARNING_RATE, MOMENTUM)

    def loss():
        with cast:
            outputs = [torch_networks.resize(out.float(), labels.shape[1:]) for out in network(images)]
        decoder, *auxiliary = (torch.nn.functional.cross_entropy(out, labels) for out in outputs)
        return decoder + AUXILIARY_WEIGHT * sum(auxiliary)

    def run():
        peer.train(kind != "forward")
        result = None
        if kind == "forward":
            with torch.no_grad(), cast:
                result = network(images)
        else:
            peer.zero_grad(set_to_none=True)
            loss().backward()
            if kind == "train step":
                optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        return result

    return Candidate("pytorch", run, {})


def check_equal(ours: Candidate, peer: Candidate, dtype: str) -> float:
    """max|difference| of the two sides' logits, in their standard deviations.

    Raises:
      ValueError: they are not the same network.
    """
    actual = np.asarray(ours.run(), np.float32)
    expected = peer.run().permute(0, 2, 3, 1).float().cpu().numpy()
    error = float(np.abs(actual - expected).max() / expected.std())
    allowed = 1e-3 if dtype == "float32" and jax.default_backend() == "cpu" else 0.2
    if not error <= allowed:
        raise ValueError(f"JAX and PyTorch logits differ by {error:.1e} standard deviations, allowed {allowed:.0e}")
    return error


def take_turns(candidates: list[Candidate], repeats: int, clock=time.perf_counter) -> dict[str, list[float]]:
    """Seconds of every candidate, by side: one warm-up, then `repeats` rounds in which each runs once."""
    times = {candidate.side: [] for candidate in candidates}
    for turn in range(repeats + 1):
        for candidate in candidates:
            time.sleep(0.05)  # idle threads of the library before wait for work by spinning
            start = clock()
            candidate.run()
            if turn > 0:
                times[candidate.side].append(clock() - start)
    return times


def benchmark_network(name: str, flags, report=print) -> list[dict]:
    """Rows of the table for one network."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(flags.batch, flags.size, flags.size, 3)).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, images.shape[:3]).astype(np.int32)
    has_peer = torch and NETWORKS[name].head in torch_networks.HEADS
    peer, layout = make_peer(name, flags) if has_peer else (None, "mmseg")
    variables = make_variables(name, flags, peer, layout)
    placed = jax.device_put((images, labels, jax.random.key(0)))
    rows = []
    for kind in flags.passes:
        candidates = []
        for side in (side for side in flags.sides if side in variables):
            model = make_model(name, flags, MODES[side])
            state = variables[side]
            if kind == "forward":
                candidates.append(jax_candidate(side, forward(model), (state, placed[0])))
            elif kind == "forward+backward":
                candidates.append(jax_candidate(side, forward_backward(model), (state, *placed)))
            else:
                function, optimizer = train_step(model)
                arguments = ((state, optimizer.init(state["params"])), *placed)
                candidates.append(jax_candidate(side, function, arguments))
        if peer is not None:
            candidates.append(torch_candidate(kind, peer, images, labels, flags.dtype))
            if kind == "forward":
                error = check_equal(candidates[0], candidates[-1], flags.dtype)
                report(f"{name}: the logits of JAX and PyTorch agree to {error:.0e} standard deviations")
        clock = time.process_time if flags.processor_time else time.perf_counter
        times = take_turns(candidates, flags.repeats, clock)
        rows += [make_row(name, kind, candidate, times, flags) for candidate in candidates]
        for row in rows[-len(candidates) :]:
            report(format_row(row))
    return rows


def make_row(name: str, kind: str, candidate: Candidate, times: dict[str, list[float]], flags) -> dict:
    best = {side: min(seconds) for side, seconds in times.items()}
    seconds = best[candidate.side]
    row = {"network": name, "pass": kind, "side": candidate.side, "seconds": seconds, **candidate.facts}
    row["median_s"] = float(np.median(times[candidate.side]))
    row["images_per_s"] = flags.batch / seconds
    row["to_baseline"] = seconds / best["baseline"]
    if "pytorch" in best:
        row["to_pytorch"] = seconds / best["pytorch"]
    peak = next((peak for name, peak in PEAKS.items() if name in jax.devices()[0].device_kind), None)
    if peak and row.get("flops"):
        row["share_of_peak"] = row["flops"] / seconds / (peak * 1e12)
    return row


COLUMNS = {
    "network": ("network", "{}"),
    "pass": ("pass", "{}"),
    "side": ("side", "{}"),
    "ms": ("seconds", "{:.1f}", 1e3),
    "median ms": ("median_s", "{:.1f}", 1e3),
    "images/s": ("images_per_s", "{:.2f}"),
    "/ baseline": ("to_baseline", "{:.3f}"),
    "/ PyTorch": ("to_pytorch", "{:.3f}"),
    "compile s": ("compile_s", "{:.1f}"),
    "memory MB": ("memory_bytes", "{:.0f}", 1e-6),
    "GFLOP": ("flops", "{:.1f}", 1e-9),
    "of peak": ("share_of_peak", "{:.1%}"),
}
WIDTHS = [max(len(title), 9) for title in COLUMNS]
WIDTHS[:2] = max(map(len, NETWORKS)), len("forward+backward")


def cells(row: dict) -> list[str]:
    texts = []
    for key, template, *scale in COLUMNS.values():
        value = row.get(key)
        texts.append("-" if value is None else template.format(value * scale[0] if scale else value))
    return texts


def format_row(row: dict) -> str:
    return "  ".join(text.rjust(width) for text, width in zip(cells(row), WIDTHS, strict=True))


def environment(flags) -> dict:
    """What the numbers hold for."""
    return {
        "flags": {name: value for name, value in vars(flags).items() if name != "output"},
        "device": jax.devices()[0].device_kind,
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch.__version__ if torch else None,
    }


def write(directory: str, rows: list[dict], flags) -> None:
    """benchmark.json and benchmark.md."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    facts = environment(flags)
    (directory / "benchmark.json").write_text(json.dumps({"environment": facts, "rows": rows}, indent=2) + "\n")
    lines = [", ".join(f"{name} {value}" for name, value in (facts | facts["flags"]).items() if name != "flags"), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    (directory / "benchmark.md").write_text("\n".join(lines) + "\n")


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help=f"of {', '.join(NETWORKS)}; by commas")
    parser.add_argument(
        "--passes", help=f"of {', '.join(PASSES)}, by commas; by default all, on a CPU all but the last"
    )
    parser.add_argument("--sides", default=",".join(MODES), help=f"of {', '.join(MODES)}, the first always; by commas")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=2, help="images a step, at least 2 (BatchNorm of pooled maps)")
    parser.add_argument("--width", type=int, default=64, help="base channels of a ResNet; heads have 8 times as many")
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet: 18, 34, 50 or 101")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the activations")
    parser.add_argument("--repeats", type=int, default=5, help="rounds in which every candidate is timed once")
    parser.add_argument(
        "--processor_time", action="store_true", help="time by the processor's clock, on one core that others use too"
    )
    parser.add_argument("--output", help="folder for benchmark.json and benchmark.md")
    flags = parser.parse_args(arguments)
    flags.passes = flags.passes or ",".join(PASSES[: 2 if jax.default_backend() == "cpu" else 3])
    for name, known in (("networks", NETWORKS), ("passes", PASSES), ("sides", MODES)):
        given = getattr(flags, name).split(",")
        if unknown := set(given) - set(known):
            parser.error(f"--{name} names {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
        setattr(flags, name, given)
    if flags.sides[0] != "baseline":
        parser.error(f"--sides is {','.join(flags.sides)}; expected baseline first, to which the others are compared")
    if flags.batch < 2 or flags.repeats < 1:
        parser.error("--batch must be at least 2 and --repeats at least 1")
    return flags


def main(arguments=None) -> list[dict]:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # on a GPU PyTorch needs memory of the same card
    flags = parse_flags(arguments)
    if torch:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        torch.backends.cudnn.benchmark = True  # algorithms by trial, as XLA chooses them
    print(json.dumps(environment(flags)))
    if torch is None:
        print("PyTorch is not installed: no comparison (pip install -r requirements-bench.txt)")
    print("  ".join(title.rjust(width) for title, width in zip(COLUMNS, WIDTHS, strict=True)))
    rows = []
    for name in flags.networks:
        rows += benchmark_network(name, flags, lambda text: print(text, flush=True))
    if flags.output:
        write(flags.output, rows, flags)
    return rows


if __name__ == "__main__":
    main()
