"""PyTorch's files of weights read without PyTorch: dense tensors of plain numbers, on the CPU or not, and containers.

Both of torch.save's formats: since 1.6 a zip archive of one pickle and one file a storage, before a stream of pickles
that the storages follow. Whatever else a pickle names is refused before it is looked up, so no code of a file runs.
Source: torch/serialization.py and torch/_utils.py of PyTorch 2.
"""

import collections
import math
import pathlib
import pickle
import zipfile
from typing import Any, ClassVar, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Refused(ValueError):
    """A pickle names something that is no tensor and no container."""


class _Tensor(NamedTuple):
    """Where a tensor lies: elements of a storage, which may be read later."""

    storage: tuple[str, np.dtype, int]  # key, type, number of elements
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(storage, offset, size, stride, *_) -> _Tensor:
    return _Tensor(storage, offset, size, stride)


def _parameter(tensor, *_) -> _Tensor:
    return tensor


class _Unpickler(pickle.Unpickler):
    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        **{("torch", name): np.dtype(kind) for name, kind in STORAGES.items()},
    }

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise Refused(f"{module}.{name}")
        return self.allowed[module, name]

    def persistent_load(self, pid):
        _, kind, key, _, count, *_ = pid
        return str(key), kind, int(count)


def load(path: pathlib.Path) -> Any:
    """What torch.save wrote, its tensors as numpy arrays.

    Raises:
      Refused: it names something else; read it through PyTorch, or not at all. ValueError: it is damaged or cut off, or
        written by a big-endian machine; names it.
    """
    try:
        return _load_zip(path) if zipfile.is_zipfile(path) else _load_stream(path)
    except Refused:
        raise
    except Exception as error:  # a damaged pickle can raise anything, as its documentation says
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is no file of PyTorch's, or damaged or cut off: {said}") from error


def _load_zip(path: pathlib.Path):
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "data.pkl")
        folder = name.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("it was written by a big-endian machine; read it through PyTorch")
        with archive.open(name) as file:
            content = _Unpickler(file).load()
        return _filled(content, lambda key: archive.read(f"{folder}data/{key}"), {})


def _load_stream(path: pathlib.Path):
    with path.open("rb") as file:
        magic, _, _ = (_Unpickler(file).load() for _ in range(3))  # the others: version, and sizes of numbers
        if magic != MAGIC:
            raise ValueError("it does not begin as one")
        content = _Unpickler(file).load()
        kinds = dict(_kinds(content))
        stored = {}
        for key in _Unpickler(file).load():
            (count,) = np.frombuffer(file.read(8), "<i8")
            stored[key] = file.read(int(count) * kinds[key].itemsize)
    return _filled(content, lambda key: stored[key], {})


def _kinds(content):
    """(key, type of number) of all storages."""
    if isinstance(content, _Tensor):
        yield content.storage[:2]
    elif isinstance(content, dict):
        for value in content.values():
            yield from _kinds(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _kinds(value)


def _filled(content, read, arrays: dict):
    """The same content with arrays in the places of tensors. arrays: storages that have been read."""
    if isinstance(content, _Tensor):
        key, kind, count = content.storage
        if key not in arrays:
            arrays[key] = np.frombuffer(read(key), kind.newbyteorder("<"), count)
        storage = arrays[key]
        last = content.offset + sum((n - 1) * step for n, step in zip(content.size, content.stride, strict=True))
        if math.prod(content.size) and not 0 <= content.offset <= last < len(storage):
            raise IndexError("a tensor reaches beyond its storage")
        strides = [step * kind.itemsize for step in content.stride]
        return np.lib.stride_tricks.as_strided(storage[content.offset :], content.size, strides).copy()
    if isinstance(content, dict):
        return {key: _filled(value, read, arrays) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(_filled(value, read, arrays) for value in content)
    return content
