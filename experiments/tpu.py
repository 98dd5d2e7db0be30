"""Compiles recipes for TPUs without a TPU, and says what their compiler and a plain model of the chip tell.

python -m experiments.tpu --configs=cityscapes_aspp,ade20k_swin_uper:tiny --topologies=v5e:2x4,v5e:16x16

Needs `pip install -r requirements-tpu.txt` (the libtpu that jax[tpu] pins); no accelerator, no data set. What
is compiled is the train step and the evaluation's network of the library itself, in bfloat16, for chips that hold
`--images` images each. Programs whose row is in the file already are not compiled again, so that a run that was stopped
goes on; each takes seconds to many minutes of one core.

A row has, for one chip:
  memory       bytes of arguments (the state and the images), of temporaries, and their sum, as the compiler lays it out
  flops        the compiler's count of floating-point operations
  bytes        the compiler's count of what operations read and write, in whatever memory
  hbm          bytes between the chip and its large memory: `experiments/traffic.py`
  estimate     seconds, the compiler's own (`optimal_seconds`), which knows nothing of the exchange between chips; none
               where it is below zero, as it is of programs with operations that the compiler has no estimate for
  exchanges    of every kind how often, and the bytes of their results; what is in a loop counts once
  roofline     seconds: max(flops / 197e12, hbm / 819e9), v5e's peaks in bfloat16 and of its memory
  exchange     seconds: for each exchange 1 us a hop to the farthest chip, and its bytes over the links (45e9 bytes a
               second and direction, all of the mesh's axes used; a 16x16 is a torus, a 2x4 is not), an all-reduce twice
               that: it is taken not to overlap with anything
  share        exchange / (roofline + exchange)
  most_images  (16 GiB - state) / (temporaries and images of one image): an estimate out of this one compilation
"""

import argparse
import json
import os
import pathlib
import time

ENVIRONMENT = {  # libtpu asks the cloud's metadata server and its peers otherwise, and refuses a second process
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from experiments import collectives, traffic  # noqa: E402
from se_jax import losses, parallel, run  # noqa: E402
from se_jax.config import recipes  # noqa: E402
from se_jax.evaluation import inference, protocol  # noqa: E402
from se_jax.evaluation.metrics import Accuracy  # noqa: E402
from se_jax.models import build  # noqa: E402
from se_jax.training import optimizers, start  # noqa: E402
from se_jax.training.step import compile_train_step  # noqa: E402

PEAK_FLOPS, MEMORY_SPEED, MEMORY = 197e12, 819e9, 16 * 2**30  # of a v5e chip, bfloat16
LINK_SPEED, HOP = 45e9, 1e-6  # of a link, in one direction; seconds
PROGRAMS = ("train", "evaluate")
MODES = ("none", "explicit", "folded")
DATA_SIZES = {"cityscapes": (1024, 2048), "ade20k": (512, 683), "voc2012": (375, 500)}  # (h, w) of a usual image


def devices(topology: str):
    """Chips of a topology that nobody needs to have, e.g. 'v5e:2x4'.

    Raises:
      RuntimeError: libtpu is not installed.
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:
        raise RuntimeError(
            f"no TPU compiler for topology {topology}: {error}; pip install -r requirements-tpu.txt"
        ) from error


def prepare(name: str, mode: str, chips: int, images: int, crop: str, mesh: dict):
    """A recipe's config with its equalizer in `mode`, `images` a chip, in bfloat16, and options of config.mesh.

    crop: 'HEIGHTxWIDTH', or '' for the recipe's.
    """
    config = recipes.load(name)
    if crop:
        config.data.crop = tuple(map(int, crop.split("x")))
    config.model.dtype = "bfloat16"
    config.model.equalizer.mode = mode
    config.mesh.update(mesh)
    config.accumulate = 1
    config.data.batch_size = images * chips // config.mesh.model
    return config


def compiled_train(config, mesh):
    """The train step."""
    model = build(config.model)
    tx, schedule = optimizers.build(config.optimizer, config.num_steps)
    blank = start.blank_state(config, model, tx, mesh)
    count, crop = config.data.batch_size, config.data.crop
    shapes = {"image": ((count, *crop, 3), "uint8"), "label": ((count, *crop), "uint8"), "size": ((count, 2), "int32")}
    batch = {key: jax.ShapeDtypeStruct(*shape, sharding=parallel.split(mesh)) for key, shape in shapes.items()}
    metrics = (Accuracy(),) if model.linear_scores else ()
    return compile_train_step(
        config, model, tx, schedule, losses.build(config.loss, model), metrics, mesh, blank, batch
    )


def compiled_evaluate(config, mesh):
    """The network as evaluation runs it, for a usual image of the data set (or a window of it)."""
    model, how = build(config.model), protocol.protocol(config.eval)
    view = how.views(DATA_SIZES.get(config.data.name, tuple(config.data.crop)))[0].size
    size = tuple(how.windows(length, axis)[0] for axis, length in enumerate(view))
    tx, _ = optimizers.build(config.optimizer, config.num_steps)
    blank = start.blank_state(config, model, tx, mesh)
    variables = {"params": blank.params, "batch_stats": blank.batch_stats, **blank.constants}
    images = jax.ShapeDtypeStruct((config.data.batch_size, *size, 3), jnp.uint8, sharding=parallel.split(mesh))
    programs = inference.build(model, how, mesh)
    return programs.lower_network({k: tree for k, tree in variables.items() if tree}, images, size).compile()


def exchange_seconds(found: list[collectives.Exchange], topology: str) -> float:
    """Of all exchanges, one after the other, by the model in this file's docstring."""
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    torus = min(sides) >= 16
    hops = sum(side // 2 if torus else side - 1 for side in sides)
    speed = LINK_SPEED * len(sides) * (2 if torus else 1)
    times = {"all-reduce": 2}
    return sum(times.get(each.kind, 1) * (hops * HOP + sum(each.arrays) / speed) for each in found)


def describe(program, topology: str, images: int) -> dict:
    """The numbers of a compiled program: see this file's docstring."""
    memory, costs = program.memory_analysis(), program.cost_analysis()
    state = memory.argument_size_in_bytes
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    text = program.as_text()
    found, hbm = collectives.exchanges(text), traffic.hbm_bytes(text)
    roofline = max(costs["flops"] / PEAK_FLOPS, hbm / MEMORY_SPEED)
    exchange = exchange_seconds(found, topology)
    return {
        "memory": {"arguments": state, "temporaries": fresh, "sum": state + fresh},
        "flops": costs["flops"],
        "bytes": costs["bytes accessed"],
        "hbm": hbm,
        "estimate": costs["optimal_seconds"] if costs["optimal_seconds"] > 0 else None,
        "exchanges": collectives.by_kind(found),
        "roofline": roofline,
        "exchange": exchange,
        "share": exchange / (roofline + exchange),
        "most_images": int((MEMORY - state) // (fresh / images)) if fresh else None,
    }


def measure(key: dict) -> dict:
    """One row: a program compiled, and what it tells."""
    chips = devices(key["topology"])
    options = {"model": key["model"], "fsdp": key["fsdp"]}
    config = prepare(key["config"], key["mode"], len(chips), key["images"], key["crop"], options)
    mesh = parallel.make_mesh(config, devices=chips)
    begun = time.monotonic()
    try:
        program = (compiled_train if key["program"] == "train" else compiled_evaluate)(config, mesh)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return key | {"does_not_fit": str(error).splitlines()[0], "compile_seconds": time.monotonic() - begun}
    seconds = time.monotonic() - begun
    return key | {"compile_seconds": seconds} | describe(program, key["topology"], key["images"])


def table(rows: list[dict]) -> str:
    """The rows in Markdown; `none` is the row of the same program without equalizers."""
    head = "config topology program mode memory,~GiB TFLOP read~and~written,~GB HBM,~GB estimate,~ms /~none "
    head += "all-reduces others exchanged,~MB share images compiled,~s"
    head = [cell.replace("~", " ") for cell in head.split()]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]

    def same(row, other):
        return all(
            row[key] == other[key] for key in ("config", "topology", "program", "images", "crop", "model", "fsdp")
        )

    for row in rows:
        mesh = f", model={row['model']}" * (row["model"] > 1) + ", fsdp" * row["fsdp"]
        cells = [
            row["config"] + f", {row['crop']}" * bool(row["crop"]),
            row["topology"] + mesh,
            row["program"],
            row["mode"],
        ]
        if "does_not_fit" in row:
            cells += ["more than 16"] + ["-"] * 10
        else:
            plain = next((r for r in rows if r["mode"] == "none" and same(r, row) and r.get("estimate")), None)
            kinds = row["exchanges"]
            reduces = kinds.get("all-reduce", {"count": 0})["count"]
            cells += [
                f"{row['memory']['sum'] / 2**30:.2f}",
                f"{row['flops'] / 1e12:.3f}",
                f"{row['bytes'] / 1e9:.2f}",
                f"{row['hbm'] / 1e9:.2f}",
                f"{row['estimate'] * 1e3:.3f}" if row["estimate"] else "-",
                f"{row['estimate'] / plain['estimate']:.4f}" if plain and row["estimate"] else "-",
                str(reduces),
                str(sum(kind["count"] for kind in kinds.values()) - reduces),
                f"{sum(kind['bytes'] for kind in kinds.values()) / 1e6:.1f}",
                f"{row['share']:.1%}",
                str(row["most_images"]),
            ]
        lines.append("| " + " | ".join([*cells, f"{row['compile_seconds']:.0f}"]) + " |")
    return "\n".join(lines)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.tpu", description=__doc__.split("\n")[0])
    parser.add_argument("--configs", default="cityscapes_aspp", help="recipes, name or name:variant, with commas")
    parser.add_argument("--topologies", default="v5e:2x4", help="with commas")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="of train,evaluate")
    parser.add_argument("--modes", default="none", help=f"of the equalizer, of {','.join(MODES)}")
    parser.add_argument(
        "--crop", default="", help="of training, e.g. 64x128: exchanges are those of any crop, all else not"
    )
    parser.add_argument("--images", type=int, default=1, help="a chip")
    parser.add_argument("--model", type=int, default=1, help="config.mesh.model")
    parser.add_argument("--fsdp", action="store_true", help="config.mesh.fsdp")
    parser.add_argument("--out", default="experiments/tpu.json", help="rows, read and added to")
    flags = parser.parse_args(arguments)
    for name, known in (("programs", PROGRAMS), ("modes", MODES)):
        if unknown := set(getattr(flags, name).split(",")) - set(known):
            parser.error(f"--{name} names {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    path = pathlib.Path(flags.out)
    rows = json.loads(path.read_text()) if path.exists() else []
    for config in flags.configs.split(","):
        for topology in flags.topologies.split(","):
            for program in flags.programs.split(","):
                for mode in flags.modes.split(","):
                    key = {"config": config, "topology": topology, "program": program, "mode": mode}
                    key |= {"images": flags.images, "crop": flags.crop, "model": flags.model, "fsdp": flags.fsdp}
                    if any(key.items() <= row.items() for row in rows):
                        continue
                    rows.append(measure(key))
                    run.write_json(path, rows)
                    print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
