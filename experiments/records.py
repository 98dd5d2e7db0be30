"""A file of results, one JSON object a line, to which any number of processes on any machine may add.

A run is known by its (config, arm, seed, rate). Files of several machines are put together by `cat`: of a run that
occurs twice the first line counts.
"""

import fcntl
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

IDENTITY = ("config", "arm", "seed", "rate")


def identity(record: dict[str, Any]) -> tuple:
    """What a run is known by."""
    return tuple(record[key] for key in IDENTITY)


def append(path, record: dict[str, Any]) -> None:
    """Adds a line, whole, also while other processes do; half a line that a killed one left is cut off first."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # held until the file is closed
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path) -> list[dict[str, Any]]:
    """All runs of a file, each once; [] where there is none.

    Raises:
      ValueError: a line is damaged, other than a last one that was not written to its end; names file and line.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            found.setdefault(identity(record), record)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}, is no result of a run ({error!r}); remove that line, or bring the file back"
            ) from error
    return list(found.values())


def check_same(records: Iterable[dict[str, Any]], digests: dict[str, str], path) -> None:
    """Makes sure that runs of an arm were made with the options that it has now.

    Args:
      digests: arm -> of its options, as the records hold it.

    Raises:
      ValueError: one was not; names the arm.
    """
    for record in records:
        if (now := digests.get(record["arm"], record["digest"])) != record["digest"]:
            raise ValueError(
                f"{path} holds runs of the arm {record['arm']!r} of config {record['config']} with other options "
                f"(digest {record['digest']}, now {now}): they cannot be compared. Give another --results, or another "
                "name to the arm"
            )
