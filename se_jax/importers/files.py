"""Checkpoint files -> tensors as numpy arrays by name, and back.

.safetensors both ways; .pth is read through PyTorch where that is installed, else
by `torch_files`, which reads plain tensors; detectron2's .pkl by numpy alone.
"""

import json
import pathlib
import pickle
import re
from typing import ClassVar

import numpy as np
import safetensors
import safetensors.numpy

from se_jax.config.normalization import Normalization
from se_jax.importers import torch_files

ARRAYS = ".pkl"  # detectron2's: numpy arrays
PICKLED = (".pth", ".pt", ".bin", ".ckpt")
KINDS = (".safetensors", *PICKLED, ARRAYS)
# under one of these keys training programs keep the state dict in their checkpoints
STATE_KEYS = ("state_dict", "model", "model_state_dict")
# tensors by which a checkpoint says how its images were normalised; in .safetensors also as metadata, in JSON
PIXELS = ("pixel_mean", "pixel_std")
PARALLEL_PREFIX = "module."  # of torch's DistributedDataParallel


def read(path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint file, by name, as numpy arrays.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is damaged, of another kind, holds no tensors, or would execute code; or PyTorch is missing.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected a checkpoint ({', '.join(KINDS)})")
    if path.suffix == ".safetensors":
        return _unwrap(_read_safetensors(path), path)
    if path.suffix in PICKLED:
        return _unwrap(_read_pickled(path), path)
    if path.suffix == ARRAYS:
        return _unwrap(_read_arrays(path), path)
    raise ValueError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(KINDS)}")


def write(path, tensors: dict[str, np.ndarray], normalization: Normalization | None = None) -> None:
    """Writes tensors to a new .safetensors file, whole or not at all.

    normalization: (mean, std) of the images that they are for; metadata, which PyTorch's readers leave aside.

    Raises:
      ValueError: another ending. FileExistsError: the file exists.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} ends in {path.suffix!r}; weights are written as .safetensors")
    if path.exists():
        raise FileExistsError(f"{path} exists; remove it or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    pixels = dict(zip(PIXELS, map(json.dumps, normalization), strict=True)) if normalization else {}
    safetensors.numpy.save_file(tensors, unfinished, metadata={"format": "pt"} | pixels)
    unfinished.rename(path)


def _read_safetensors(path: pathlib.Path) -> dict:
    try:
        with safetensors.safe_open(path, "np") as file:
            said = file.metadata() or {}
        pixels = {name: np.array(json.loads(said[name]), np.float32) for name in PIXELS if name in said}
        return pixels | safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no complete .safetensors file ({error}); it begins with {_beginning(path)!r}"
        ) from error


def _read_pickled(path: pathlib.Path):
    if not _beginning(path).startswith((b"PK\x03\x04", b"\x80")):
        raise ValueError(
            f"{path} is no PyTorch file: it begins with {_beginning(path)!r}. A web page or a Git LFS pointer in its "
            "place? Download it again."
        )
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _read_without_torch(path)
    scalar = np.float64(0).__reduce__()[0]  # with dtypes, what the numbers in training logs are made of
    numbers = [np.dtype, scalar, *{type(np.dtype(kind)) for kind in "fdilq?"}]
    try:
        with torch.serialization.safe_globals(numbers):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} is refused: loading it would execute code, {named[1]}. A file of weights holds tensors only; "
                "if you trust its source, load it there and save its state_dict alone."
            ) from error
        raise ValueError(f"{path} is no PyTorch file of weights: {str(error).splitlines()[0]}") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged or cut off: {str(error).splitlines()[0]}") from error
    return content


def _read_without_torch(path: pathlib.Path):
    try:
        return torch_files.load(path)
    except torch_files.Refused as error:
        raise ValueError(
            f"{path} holds {error} beside plain tensors: such files are read through PyTorch, which is not installed. "
            'Install it (pip install "se_jax[torch]"), or convert the file elsewhere with '
            "safetensors.torch.save_file and give the .safetensors file."
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays and Python's containers; whatever else a pickle names is refused before it is looked up."""

    allowed: ClassVar = {
        (f"numpy.{core}.multiarray", name): made
        for core in ("core", "_core")
        for name, made in (
            ("_reconstruct", np.zeros(0).__reduce__()[0]),
            ("scalar", np.float64(0).__reduce__()[0]),
        )
    } | {
        ("numpy._core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
        ("numpy.core.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("collections", "OrderedDict"): dict,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # bytes in pickles of Python 2
    }

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"loading it would execute code, {module}.{name}")
        return self.allowed[module, name]


def _read_arrays(path: pathlib.Path):
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: {error}. A .pkl file of weights holds numpy arrays only; if you trust its source, "
            "load it there and save its tensors as .safetensors."
        ) from error
    except (EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, cut off, or no pickle of numpy arrays: {error}") from error


def _unwrap(content, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The state dict of a checkpoint, which may have the trainer's things around it."""
    for key in STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no tensors by name, but {type(content).__name__}; expected a state dict")
    state = {}
    for name, tensor in content.items():
        if not hasattr(tensor, "shape"):
            raise ValueError(
                f"{path}: {name!r} is no tensor but {type(tensor).__name__}; expected a state dict, plain or under "
                f"one of the keys {', '.join(STATE_KEYS)}"
            )
        state[name] = tensor if isinstance(tensor, np.ndarray) else _to_numpy(tensor)
    if all(name.startswith(PARALLEL_PREFIX) for name in state):
        state = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in state.items()}
    return state


def _to_numpy(tensor) -> np.ndarray:
    """A torch tensor as numpy array; bfloat16, which numpy lacks, fits into float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _beginning(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        return file.read(24)
