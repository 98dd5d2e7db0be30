"""What a page reads from a workdir."""

import dataclasses
import pathlib
from typing import Any

from se_jax import run as files

# fields of a Run and their files: those of a training run, and those of an evaluation of it
TRAINING = {
    "config": files.CONFIG,
    "metrics": files.METRICS,
    "history": files.HISTORY,
    "equalizer": files.EQUALIZER,
    "environment": files.ENVIRONMENT,
    "samples": files.SAMPLES,
    "segments": files.SEGMENTS,
    "confusion": files.CONFUSION,
    "worst": files.WORST,
}
EVALUATION = {
    "config": files.CONFIG,
    "metrics": f"{files.EVALUATION}.json",
    "confusion": f"{files.EVALUATION}_{files.CONFUSION}",
    "worst": f"{files.EVALUATION}_{files.WORST}",
}


@dataclasses.dataclass
class Run:
    """What a workdir holds; a field is empty where its file is missing."""

    name: str
    config: dict = dataclasses.field(default_factory=dict)
    metrics: dict = dataclasses.field(default_factory=dict)
    history: list = dataclasses.field(default_factory=list)
    equalizer: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=dict)
    samples: dict = dataclasses.field(default_factory=dict)
    segments: dict = dataclasses.field(default_factory=dict)
    confusion: dict = dataclasses.field(default_factory=dict)
    worst: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, name: str, workdir, names: dict = TRAINING) -> "Run":
        """Reads a workdir.

        Args:
          name: shown on the page. names: {field: file name}.

        Raises:
          FileNotFoundError: `workdir` is no directory.
        """
        workdir = pathlib.Path(workdir)
        if not workdir.is_dir():
            raise FileNotFoundError(f"no report: {workdir} is no directory; give the workdir of a run")
        paths = {field: workdir / file for field, file in names.items()}
        loaded: dict[str, Any] = {field: _load(path) for field, path in paths.items() if path.is_file()}
        return cls(name, **loaded)

    @property
    def palette(self) -> dict:
        """{class: its colour}."""
        arrays = self.confusion or self.samples
        return dict(zip(arrays.get("names", []), arrays.get("palette", []), strict=True))

    def curve(self, key: str) -> tuple[list, list]:
        """Steps and values of one entry of the history; a step written twice (a resumed run) keeps its last value."""
        values = {entry["step"]: entry[key] for entry in self.history if entry.get(key) is not None}
        steps = sorted(values)
        return steps, [float(values[step]) for step in steps]


def _load(path: pathlib.Path):
    if path.suffix == ".npz":
        return files.read_arrays(path)
    if path.suffix == ".jsonl":
        return files.read_history(path)
    return files.read_json(path)
