"""The files of a run's directory, each named once; written beside their place and renamed: whole, or not at all.

A workdir holds what training leaves, what an evaluation of it leaves (evaluation*), and both pages.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

CONFIG = "config.json"
LABELS = "labels.json"  # class names and palette, so that predicting needs no data set
CHECKPOINTS = "checkpoints"
HISTORY = "history.jsonl"  # a line for every logged step and every evaluation
ENVIRONMENT = "environment.json"
EQUALIZER = "equalizer.json"  # what calibration measured
METRICS = "metrics.json"
SAMPLES = "samples.npz"  # pictures of the report
SEGMENTS = "segments.npz"  # the masks that a prediction is made of, where it is
REPORT = "report.html"
CONFUSION, WORST = "confusion.npz", "worst.npz"
EVALUATION = "evaluation"  # with a suffix: .json, .html, _confusion.npz, _worst.npz
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


def write_text(path, text: str) -> pathlib.Path:
    """Writes a text file."""
    path = pathlib.Path(path)
    beside = path.with_name(f"{path.name}.unfinished")
    beside.write_text(text, encoding="utf-8")
    return beside.replace(path)


def write_json(path, content: Any) -> pathlib.Path:
    """Writes a JSON file."""
    return write_text(path, json.dumps(content, indent=1) + "\n")


def write_arrays(path, arrays: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes an .npz file."""
    path = pathlib.Path(path)
    beside = path.with_name(f"{path.name}.unfinished")
    with beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return beside.replace(path)


def write_labels(workdir, labels) -> None:
    """Writes class names and palette, and which ids in annotation files mean each class ('ids': a list a class)."""
    ids = [np.flatnonzero(labels.table == k).tolist() for k in range(len(labels.names))]
    content = {"names": list(labels.names), "palette": np.asarray(labels.palette).tolist(), "ids": ids}
    write_json(pathlib.Path(workdir) / LABELS, content)
