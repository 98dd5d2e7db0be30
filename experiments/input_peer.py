"""What a PyTorch user would write in place of data_pipelines: PIL, numpy and a DataLoader, for a comparison of speed.

The steps are those of data_pipelines in its order: read, decode, random size, crop of the label drawn again while one
class covers it, the same window of the image scaled by PIL, flip, photometric distortion, padding, batch. The pixels
are not quite the same: PIL smooths when it shrinks, and has its own HSV.

Runs as a program of its own, in any Python with PIL and numpy, because worker processes are forked from it:
`python input_peer.py` reads a line of JSON (see `main`) for each measurement and answers with one. Without PyTorch,
processes of multiprocessing take the place of DataLoader's workers and hand their batches over by pickling.
"""

import collections
import functools
import io
import itertools
import json
import multiprocessing
import sys
import time

import numpy as np
from PIL import Image

try:
    import torch
except ImportError:
    torch = None

IGNORE = 255
REDRAWS = 10


class Examples:
    """`examples[number]`: the augmented example of that number, or what the work up to an earlier stage leaves."""

    def __init__(self, job: dict):
        self.job = job
        self.table = np.asarray(job["table"], np.uint8)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int):
        random = np.random.default_rng((self.job["seed"], number))
        files = [read(path) for path in self.job["pairs"][random.integers(len(self.job["pairs"]))]]
        if self.job["stage"] == "read":
            return sum(map(len, files))
        image, label = (Image.open(io.BytesIO(data)) for data in files)
        image, label = image.convert("RGB"), self.table[np.asarray(label)]
        if self.job["stage"] == "decode":
            return image.width
        return augment(image, label, random, self.job)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def augment(image: Image.Image, label: np.ndarray, random, job: dict) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] and [H, W] of the size job['crop']."""
    width, height = image.size
    base = np.array(job["scale"] or image.size) * random.uniform(*job["ratio_range"])
    factor = min(max(base) / max(width, height), min(base) / min(width, height))
    size = np.maximum((np.array([height, width]) * factor + 0.5).astype(int), 1)
    extent = np.minimum(size, job["crop"])
    for _ in range(REDRAWS + 1):
        corner = random.integers(size - extent + 1)
        rows, columns = (
            np.minimum((np.arange(c, c + e) * (n / s)).astype(int), n - 1)
            for c, e, n, s in zip(corner, extent, (height, width), size, strict=True)
        )
        crop = label[rows[:, None], columns]
        counts = np.bincount(crop.ravel(), minlength=256)[:IGNORE]
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < job["cat_max_ratio"]:
            break
    scale = np.array([height, width]) / size
    top, left = corner * scale
    bottom, right = (corner + extent) * scale
    box = left, top, min(right, width), min(bottom, height)
    picture = np.asarray(image.resize(tuple(extent[::-1].tolist()), Image.Resampling.BILINEAR, box))
    if random.random() < job["flip"]:
        picture, crop = picture[:, ::-1], crop[:, ::-1]
    if job["photometric"]:
        picture = photometric(picture, random)
    padding = [(0, whole - part) for whole, part in zip(job["crop"], extent.tolist(), strict=True)]
    return np.pad(picture, [*padding, (0, 0)]), np.pad(crop, padding, constant_values=IGNORE)


def photometric(image: np.ndarray, random) -> np.ndarray:
    contrast_first = random.random() < 0.5
    if random.random() < 0.5:
        image = linear(image, 1, random.uniform(-32, 32))
    contrast = random.random() < 0.5
    gain = random.uniform(0.5, 1.5)
    if contrast and contrast_first:
        image = linear(image, gain, 0)
    if random.random() < 0.5:
        hue, saturation, value = Image.fromarray(image).convert("HSV").split()
        saturation = Image.fromarray(linear(np.asarray(saturation), random.uniform(0.5, 1.5), 0))
        image = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
    if random.random() < 0.5:
        hue, saturation, value = Image.fromarray(image).convert("HSV").split()
        hue = Image.fromarray(np.asarray(hue) + np.uint8(random.integers(-25, 25) % 256))
        image = np.asarray(Image.merge("HSV", (hue, saturation, value)).convert("RGB"))
    return linear(image, gain, 0) if contrast and not contrast_first else image


def linear(image: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(image * np.float32(gain) + np.float32(offset), 0, 255).astype(np.uint8)


def batch_of(examples: Examples, size: int, number: int):
    parts = [examples[number * size + k] for k in range(size)]
    return [np.stack(part) for part in zip(*parts, strict=True)] if examples.job["stage"] == "batch" else parts


def measure(job: dict) -> dict:
    """Images a second and processor time an image, in the steady state: the loader's start does not count."""
    examples, size, workers = Examples(job), job["batch_size"], job["workers"]
    warm, timed = 2 * workers, max(1, job["images"] // size)
    if torch:
        whole = job["stage"] == "batch"
        loader = torch.utils.data.DataLoader(
            examples,
            batch_size=size,
            sampler=range(size * (warm + timed + 2 * workers)),
            num_workers=workers,
            collate_fn=None if whole else list,
        )
        return times(iter(loader), warm, timed, size)
    pool = multiprocessing.get_context("fork").Pool(workers)
    batches = pool.imap(functools.partial(batch_of, examples, size), range(warm + timed + 2 * workers))
    found = times(batches, warm, timed, size)
    collections.deque(batches, maxlen=0)  # a pool that is ended at work may wait for itself for ever
    pool.close()
    pool.join()
    return found


def times(batches, warm: int, timed: int, size: int) -> dict:
    """Of `timed` batches of `size` images, after the first `warm` ones: see `main`."""
    for _ in itertools.islice(batches, warm):
        pass
    start, processor = time.perf_counter(), processor_time()
    for _ in itertools.islice(batches, timed):
        pass
    processor, seconds = processor_time() - processor, time.perf_counter() - start
    return {"images_per_s": timed * size / seconds, "processor_ms": 1e3 * processor / (timed * size)}


def processor_time() -> float:
    """Seconds of this process and of those that it started and that run, by their clocks: clock_getcpuclockid(3)."""
    clocks = [(~child.pid << 3) | 2 for child in multiprocessing.active_children()]
    return time.process_time() + sum(map(time.clock_gettime, clocks))


def main() -> None:
    """Says what loads, then answers each job with {"images_per_s", "processor_ms" an image, of all processes}.

    A job: pairs of paths, table (256 ids), stage, images, workers, seed, and the keys of config.data for the steps.
    """
    loader = f"torch {torch.__version__}" if torch else "multiprocessing, without torch"
    print(json.dumps({"loader": loader}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
