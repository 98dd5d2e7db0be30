"""Speed of the input pipeline, stage by stage, beside a plain PIL and PyTorch DataLoader of the same steps.

python -m experiments.benchmark_input --dataset=cityscapes --dir=DIR [--dataset=ade20k --dir=DIR] [--output=DIR]

For generated pictures and for each data set that is given (the files as published, or the shards of
data_pipelines.prepare), with the augmentation of its recipe in se_jax/config/datasets.py: images/s of the work up to
and with each stage (read, decode, augment, batch, to the device), on as many threads as there are cores, and the
processor time an image, of all threads and processes together. The loader beside it, experiments/input_peer.py, does
the same to the same files with as many worker processes; it runs in the Python of --python, which needs PIL, numpy and,
for the DataLoader, torch (requirements-bench.txt). Both take turns; rates are medians over the turns and need an
otherwise idle machine, processor times are the least. A few files are read again and again, so they come from memory.
Fewer cores: taskset -c 0 python -m ...
"""

import argparse
import collections
import contextlib
import itertools
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

import data_pipelines
from data_pipelines import OFFICIAL, shapes
from data_pipelines.pipeline import THREADS, train_examples
from experiments import input_peer
from se_jax.config import datasets

STAGES = ("read", "decode", "augment", "batch", "to device")
RECIPES = {"ade20k": datasets.ade20k, "voc2012": datasets.voc2012, "cityscapes": datasets.cityscapes}
READS = 20  # times the images: reading alone is over too soon to be timed
SHAPES = 24  # generated pictures, of the size and in the files that ADE20K has: JPEG, 683 x 512
STEPS = ("scale", "ratio_range", "crop", "cat_max_ratio", "flip", "photometric", "batch_size")


class Peer:
    """The other loader, in a process of its own; `loader` says what it is."""

    def __init__(self, python: str):
        command = [python, str(pathlib.Path(__file__).with_name("input_peer.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loader = self._answer()["loader"]

    def measure(self, job: dict) -> dict:
        """Images a second and processor time of a job; see input_peer.main."""
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with status {self._process.wait()}; its messages are above")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def recipe(name: str, directory: str):
    """config.data of a data set; PASCAL Context's is that of VOC, and generated pictures are treated as ADE20K's."""
    config = RECIPES.get(name, datasets.ade20k if name == "folder" else datasets.voc2012)().data
    config.update(name=name, dir=directory)
    return config


def write_shapes(directory: str, count: int = SHAPES, size=(512, 683)) -> None:
    """Generated pictures as a 'folder' data set."""
    root = pathlib.Path(directory)
    for kind in ("images", "annotations"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
    labels = shapes.label_spec()
    for index in range(count):
        split = "val" if index == 0 else "train"
        image, label = shapes.scene(split, index, size)
        Image.fromarray(image).save(root / "images" / split / f"{index}.jpg", quality=92)
        Image.fromarray(label).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.json").write_text(json.dumps({"classes": list(labels.names)}))


def ours(data, config, stage: str, images: int) -> dict:
    """Images a second and processor time an image of data_pipelines up to a stage, in the steady state."""
    if stage in ("batch", "to device"):
        batches = data_pipelines.train_batches(data, config, seed=0, start_step=0)
        if stage == "to device":
            batches = (jax.block_until_ready(jax.device_put(batch)) for batch in batches)
        size = config.batch_size
    else:
        batches, size = train_examples(data, config, seed=0, stage=stage), 1
    waiting = 3 + -(-THREADS // size)  # finished before the clock starts: prefetched batches, examples on the way
    timed = max(1, images // size)
    next(itertools.islice(batches, waiting, None))
    return input_peer.times(batches, 0, timed, size)


def theirs(peer: Peer, data, config, stage: str, images: int) -> dict:
    job = {key: config[key] for key in STEPS} | {"stage": stage, "images": images, "workers": THREADS, "seed": 0}
    return peer.measure(job | {"pairs": data.train.pairs, "table": data.labels.table.tolist()})


def measure(name: str, config, peer: Peer | None, flags, report: Callable) -> list[dict]:
    """A row for each stage."""
    data = data_pipelines.build(config)
    if peer and not hasattr(data.train, "pairs"):
        report(f"{name}: no comparison, the loader beside it reads files and these are shards")
        peer = None
    turns = collections.defaultdict(list)
    for _, stage in itertools.product(range(flags.rounds), STAGES):
        images = flags.images * (READS if stage == "read" else 1)
        turns[stage, ""].append(ours(data, config, stage, images))
        if peer and stage != "to device":
            turns[stage, "peer_"].append(theirs(peer, data, config, stage, images))
    rows = []
    for stage in STAGES:
        row = {"data": name, "stage": stage}
        for side in ("", "peer_"):
            if found := turns[stage, side]:
                row[side + "images_per_s"] = float(np.median([turn["images_per_s"] for turn in found]))
                row[side + "processor_ms"] = min(turn["processor_ms"] for turn in found)
        if "peer_images_per_s" in row:
            row["ratio"] = row["images_per_s"] / row["peer_images_per_s"]
            row["processor_ratio"] = row["peer_processor_ms"] / row["processor_ms"]
        rows.append(row)
        report(format_row(row))
    return rows


COLUMNS = {
    "data": "data",
    "up to": "stage",
    "images/s": "images_per_s",
    "loader": "peer_images_per_s",
    "ratio": "ratio",
    "CPU ms": "processor_ms",
    "loader ms": "peer_processor_ms",
    "of ms": "processor_ratio",
}


def cells(row: dict) -> list[str]:
    values = [row.get(key, "-") for key in COLUMNS.values()]
    return [value if isinstance(value, str) else f"{value:.{2 if value < 100 else 0}f}" for value in values]


def format_row(row: dict) -> str:
    return "  ".join(text.rjust(width) for text, width in zip(cells(row), (17, 9, 9, 9, 6, 9, 9, 6), strict=True))


def environment(flags, peer: Peer | None) -> dict:
    """What the numbers hold for."""
    return {
        "threads": THREADS,
        "images": flags.images,
        "rounds": flags.rounds,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "loader": peer.loader if peer else None,
        "numpy": np.__version__,
    }


def write(directory: str, rows: list[dict], facts: dict) -> None:
    """benchmark_input.json and benchmark_input.md."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "benchmark_input.json").write_text(json.dumps({"environment": facts, "rows": rows}, indent=2) + "\n")
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    (directory / "benchmark_input.md").write_text("\n".join(lines) + "\n")


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark_input", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", action="append", default=[], choices=OFFICIAL, help="may be given several times")
    parser.add_argument("--dir", action="append", default=[], help="of each --dataset, in the same order")
    parser.add_argument("--images", type=int, default=192, help="timed in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="runs the loader that is compared; '' for none")
    parser.add_argument("--output", help="folder for benchmark_input.json and benchmark_input.md")
    flags = parser.parse_args(arguments)
    if len(flags.dataset) != len(flags.dir):
        parser.error(f"{len(flags.dataset)} --dataset and {len(flags.dir)} --dir; each data set needs its directory")
    if flags.images < 1 or flags.rounds < 1:
        parser.error("--images and --rounds must be at least 1")
    return flags


def main(arguments=None) -> list[dict]:
    flags = parse_flags(arguments)
    rows = []
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        peer = Peer(flags.python) if flags.python else None
        if peer:
            stack.callback(peer.close)
        facts = environment(flags, peer)
        print(json.dumps(facts))
        if peer and "without" in peer.loader:
            print(f"{flags.python} has no torch: beside it workers of multiprocessing (pip install torch, or --python)")
        print(format_row({key: title for title, key in COLUMNS.items()}))
        write_shapes(place)
        for name, directory in [("folder", place), *zip(flags.dataset, flags.dir, strict=True)]:
            title = "generated" if name == "folder" else name
            rows += measure(title, recipe(name, directory), peer, flags, lambda text: print(text, flush=True))
    if flags.output:
        write(flags.output, rows, facts)
    return rows


if __name__ == "__main__":
    main()
