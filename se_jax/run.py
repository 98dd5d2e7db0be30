"""The files of a run's directory, each named once; written beside their place and renamed: whole, or not at all.

A workdir holds what training leaves, what an evaluation of it leaves (evaluation*), and both pages. One process trains
in it at a time (`lock`).
"""

import contextlib
import csv
import datetime
import errno
import fcntl
import io
import json
import os
import pathlib
import shutil
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

CONFIG = "config.json"
LABELS = "labels.json"  # class names and palette, so that predicting needs no data set
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"  # checkpoints that were found damaged, set aside
LOCK = ".lock"  # who trains here
HISTORY = "history.jsonl"  # a line for every logged step and every evaluation
ENVIRONMENT = "environment.json"
EQUALIZER = "equalizer.json"  # what calibration measured
METRICS = "metrics.json"  # of the last evaluation
SAMPLES = "samples.npz"  # pictures of the report
SEGMENTS = "segments.npz"  # the masks that a prediction is made of, where it is
REPORT = "report.html"
CONFUSION, WORST = "confusion.npz", "worst.npz"
EVALUATION = "evaluation"  # with a suffix: .json, .html, _confusion.npz, _worst.npz, _per_image.csv
CONSTANTS = ("constants.npz", "constants.json")  # of a command that fits constants
IMPORT = "import.json"  # what became of an imported checkpoint


def make(workdir, option: str = "workdir") -> pathlib.Path:
    """Makes a directory, and makes sure that it can be written.

    Raises:
      OSError: it cannot; names the option.
    """
    workdir = pathlib.Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"{option} {workdir} cannot be written ({error.strerror}); give another --{option}") from error
    return workdir


@contextlib.contextmanager
def lock(workdir) -> Iterator[None]:
    """Holds the workdir as its one writer; the kernel lets go of it when the process ends, however that happens.

    A file system without locks (some network mounts) is used without one.

    Raises:
      BlockingIOError: another process holds it; says which one, on which machine, and since when.
    """
    path = pathlib.Path(workdir) / LOCK
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BlockingIOError(
                f"{workdir} is in use: {holder} trains there; wait for its end, or give another --workdir"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        file.truncate(0)
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since},")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def write_text(path, text: str) -> pathlib.Path:
    """Writes a text file."""
    with _beside(path) as file:
        file.write(text.encode())
    return pathlib.Path(path)


def write_json(path, content: Any) -> pathlib.Path:
    """Writes a JSON file."""
    return write_text(path, json.dumps(content, indent=1) + "\n")


def write_table(path, rows: list[list]) -> pathlib.Path:
    """Writes a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return write_text(path, text.getvalue())


def write_arrays(path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes an .npz file."""
    with _beside(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return pathlib.Path(path)


class DiskFull(OSError):
    """The disk of a workdir has no room left."""


FULL = ("No space left on device", "Disk quota exceeded", "RESOURCE_EXHAUSTED: Error writing")  # tensorstore's words


@contextlib.contextmanager
def full_disk_told(workdir, safe: Callable[[], str]) -> Iterator[None]:
    """Makes DiskFull of an error that a full disk causes, in whatever library.

    safe: says what is saved, for the message.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not any(words in str(error) for words in FULL):
            raise
        raise DiskFull(
            f"the disk of {workdir} is full ({_size(shutil.disk_usage(workdir).free)} free); {safe()}. Make room, and "
            "the same command goes on from there"
        ) from error


def check_room(workdir, size: int) -> None:
    """Makes sure that a checkpoint has room.

    size: in bytes.

    Raises:
      DiskFull: it has none.
    """
    free = shutil.disk_usage(workdir).free
    if free < size:
        raise DiskFull(
            f"the disk of {workdir} has {_size(free)} free, but writing a checkpoint takes {_size(size)}; what was "
            "saved before is whole. Make room, and the same command goes on, or give another --workdir"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


@contextlib.contextmanager
def _beside(path) -> Iterator[Any]:
    """A file open for writing bytes that takes the place of `path` once it is whole and on the disk."""
    path = pathlib.Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.unfinished")  # a file of its own for every process
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power failure leaves an empty file in the place of the old one
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_arrays(path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
      ValueError: it is damaged; names it. FileNotFoundError: there is none.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); bring it back from a copy, or remove it") from error


def read_json(path, **options) -> Any:
    """What a JSON file holds; `options` are json.loads's.

    Raises:
      ValueError: it holds no JSON; names the file. FileNotFoundError: there is none.
    """
    text = pathlib.Path(path).read_bytes()
    try:
        return json.loads(text.decode(), **options)
    except ValueError as error:  # a JSONDecodeError or a UnicodeDecodeError
        what = "is empty" if not text.strip() else f"is damaged ({error})"
        raise ValueError(f"{path} {what}; bring it back from a copy, or remove it") from error


def read_history(path) -> list[dict]:
    """The lines of a history, {"step": ..., name: number, ...}, without a last one that was not written to its end.

    Raises:
      ValueError: another line is damaged; names the file and the line.
    """
    lines = pathlib.Path(path).read_bytes().splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line.decode())
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                raise ValueError("no object with a step")
        except ValueError as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise ValueError(
                f"{path}, line {number}, is damaged ({error}); bring the file back from a copy, or remove that line"
            ) from error
        found.append(entry)
    return found


def write_labels(workdir, labels) -> None:
    """Writes class names and palette, and which ids in annotation files mean each class ('ids': a list a class)."""
    ids = [np.flatnonzero(labels.table == k).tolist() for k in range(len(labels.names))]
    content = {"names": list(labels.names), "palette": np.asarray(labels.palette).tolist(), "ids": ids}
    write_json(pathlib.Path(workdir) / LABELS, content)
