"""Checksums of a checkpoint's files: what a disk gives back years later is what was written, or the run says so.

They stand in the checkpoint's directory as `sha256sum` writes and checks them.
"""

import hashlib
import pathlib

NAME = "SHA256SUMS"


def write(folder: pathlib.Path) -> None:
    """Writes the checksums of all files in the directories of `folder`."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    (folder / NAME).write_text("".join(f"{_digest(path)}  {path.relative_to(folder)}\n" for path in files))


def damage(folder: pathlib.Path) -> str | None:
    """What is wrong with the files of a directory, in words; None where nothing is, or where none were written."""
    if not (folder / NAME).exists():
        return None
    text = (folder / NAME).read_bytes()
    try:
        entries = [line.split("  ", 1) for line in text.decode("ascii").splitlines()]
        expected = {name: digest for digest, name in entries}
    except ValueError:
        return f"{NAME} is damaged"
    if not expected or not text.endswith(b"\n"):
        return f"{NAME} is damaged"
    for name, digest in expected.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _digest(folder / name) != digest:
            return f"{name} is not what was written"
    return None


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
