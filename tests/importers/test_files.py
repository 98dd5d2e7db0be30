"""Checkpoint files: what is read, and a clear error for everything else."""

import os
import pathlib
import pickle
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from se_jax.importers import files

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.ones(2, np.float32)}


def equal(actual, expected):
    return actual.keys() == expected.keys() and all(np.array_equal(actual[name], expected[name]) for name in expected)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    files.write(path, TENSORS)
    assert equal(files.read(path), TENSORS)
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]
    with pytest.raises(FileExistsError, match="exists; remove it"):
        files.write(path, {})
    assert equal(files.read(path), TENSORS)


def test_the_prefix_of_parallel_training_is_taken_off(tmp_path):
    safetensors.numpy.save_file(
        {f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "x.safetensors"
    )
    assert equal(files.read(tmp_path / "x.safetensors"), TENSORS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "text.pth",
            b"version https://git-lfs.github.com/spec/v1",
            r"text.pth is no PyTorch file: .*git-lfs.*Download",
        ),
        ("text.safetensors", b"not found", "text.safetensors is no complete .safetensors file"),
        ("weights.h5", b"", "weights.h5 ends in '.h5'; expected one of .safetensors, .pth"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read(tmp_path / name)


def test_half_a_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    files.write(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is no complete .safetensors file"):
        files.read(path)
    with pytest.raises(FileNotFoundError, match="absent.pth is no file"):
        files.read(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["zipped.pth", "stream.pth"])
def test_without_pytorch_plain_tensors_are_read(name, tmp_path, monkeypatch):
    """Files that PyTorch wrote in both of its formats; then cut off."""
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch raises ImportError
    path, weight = pathlib.Path(__file__).parent / "files" / name, TENSORS["a.weight"]
    found = files.read(path)
    expected = {"weight": weight, "transposed": weight.T, "row": weight[1], "steps": np.int64(3)}
    expected |= {"empty": np.zeros((0, 2), np.float32), "half": np.full(2, 1.5, np.float16)}
    assert equal(found, {f"a.{name}": array for name, array in expected.items()})
    assert found["a.half"].dtype == np.float16
    for share in (2, 3, 5):
        (tmp_path / name).write_bytes(path.read_bytes()[: -path.stat().st_size // share])
        with pytest.raises(ValueError, match="damaged or cut off|no file of PyTorch"):
            files.read(tmp_path / name)


@pytest.mark.parametrize("name", ["zipped.pth", "stream.pth"])
def test_without_pytorch_a_damaged_file_is_read_or_named(name, tmp_path, monkeypatch):
    """Whatever a damaged pickle or archive raises."""
    monkeypatch.setitem(sys.modules, "torch", None)
    whole, path = (pathlib.Path(__file__).parent / "files" / name).read_bytes(), tmp_path / name
    rng, named = np.random.default_rng(0), 0
    for _ in range(400):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, len(whole), rng.integers(1, 4))] = rng.integers(0, 256)
        path.write_bytes(damaged.tobytes())
        try:
            files.read(path)
        except ValueError as error:
            assert str(path) in str(error), error
            named += 1
    assert named > 100
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "no weights")
    with pytest.raises(ValueError, match="is no file of PyTorch's"):
        files.read(path)


def test_without_pytorch_the_way_round_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="holds torch.BFloat16Storage .* PyTorch, which is not installed.*safetensors"):
        files.read(pathlib.Path(__file__).parent / "files" / "bfloat16.pth")
    (tmp_path / "x.pth").write_bytes(pickle.dumps(files.read))
    with pytest.raises(ValueError, match="holds se_jax.importers.files.read beside plain tensors"):
        files.read(tmp_path / "x.pth")


class TestPickledArrays:
    """detectron2's files."""

    @pytest.mark.parametrize("protocol", [2, 5])
    def test_arrays_are_read(self, tmp_path, protocol):
        content = {"model": TENSORS, "__author__": "somebody", "matching_heuristics": True, "loss": np.float64(3.0)}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
        assert equal(files.read(tmp_path / "x.pkl"), TENSORS)

    def test_code_is_refused_and_not_executed(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path / 'executed'}",)

        (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": TENSORS, "extra": Malicious()}))
        with pytest.raises(ValueError, match="x.pkl is refused: loading it would execute code, posix.system"):
            files.read(tmp_path / "x.pkl")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("content", [b"", b"version https", pickle.dumps({"model": TENSORS})[:-20]])
    def test_other_files_are_refused(self, tmp_path, content):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(ValueError, match="x.pkl is"):
            files.read(tmp_path / "x.pkl")


class TestPickled:
    """Files that PyTorch wrote."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch is not installed (requirements-bench.txt)")

    def tensors(self, torch):
        return {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}

    @pytest.mark.parametrize("wrapping", ["state_dict", "model", None])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_state_dicts(self, torch, tmp_path, wrapping, zipped):
        content = self.tensors(torch)
        if wrapping:
            content = {wrapping: content, "meta": {"epoch": np.float64(3.0)}}
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        assert equal(files.read(tmp_path / "x.pth"), TENSORS)

    def test_half_precision(self, torch, tmp_path):
        torch.save({"x": torch.full((3,), 1.5, dtype=torch.bfloat16)}, tmp_path / "x.pth")
        np.testing.assert_array_equal(files.read(tmp_path / "x.pth")["x"], np.full(3, 1.5, np.float32))

    def test_a_file_that_would_execute_code_is_refused(self, torch, tmp_path):
        class Malicious:
            def __reduce__(self):
                import os

                return os.system, (f"touch {tmp_path / 'executed'}",)

        torch.save({"state_dict": self.tensors(torch), "extra": Malicious()}, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="is refused: loading it would execute code, posix.system"):
            files.read(tmp_path / "x.pth")
        assert not (tmp_path / "executed").exists()

    def test_half_a_file_is_refused(self, torch, tmp_path):
        torch.save(self.tensors(torch), tmp_path / "x.pth")
        whole = (tmp_path / "x.pth").read_bytes()
        (tmp_path / "x.pth").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="is damaged or cut off"):
            files.read(tmp_path / "x.pth")

    @pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}])
    def test_a_file_without_tensors_is_refused(self, torch, tmp_path, content):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(ValueError, match="expected a state dict"):
            files.read(tmp_path / "x.pth")
