"""Fixtures for every test: eight fake CPU devices, full float32 products, golden cases of the PyTorch reference."""

import json
import os
import pathlib

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the suite is written for a CPU; an accelerator would change its tolerances

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_disable_most_optimizations", True)  # the suite compiles much and runs little: four times faster

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


class GoldenCase:
    """Inputs, weights and outputs of one case of the PyTorch reference.

    `case["in/0"]` is an array, `case.meta` the case's description.
    """

    def __init__(self, path: pathlib.Path):
        with np.load(path) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files if key != "meta"}
            self.meta = json.loads(str(arrays["meta"]))

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays whose key starts with `prefix/`, by the rest of their key."""
        return {key[len(prefix) + 1 :]: value for key, value in self.arrays.items() if key.startswith(prefix + "/")}


@pytest.fixture(scope="session")
def golden():
    """`golden(name)` -> GoldenCase; skips where the reference's outputs are not at hand."""

    def load(name: str) -> GoldenCase:
        path = SHARED / "golden" / f"{name}.npz"
        if not path.exists():
            pytest.skip(
                f"golden case {path} is not at hand (outputs of the PyTorch reference, kept outside the project)"
            )
        return GoldenCase(path)

    return load


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data(name)` -> directory of a real data set; skips where it is not at hand."""

    def find(name: str) -> pathlib.Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"data set {path} is not at hand (its licence forbids keeping it in the project)")
        return path

    return find


def assert_close_to_reference(actual, reference, tolerance=5e-5):
    """max|difference| <= tolerance * std(reference): separates right from wrong in every golden case."""
    actual, reference = np.asarray(actual), np.asarray(reference)
    assert actual.shape == reference.shape
    error = np.abs(actual - reference).max() / max(reference.std(), 1e-12)
    assert error <= tolerance, f"max|difference| = {error:.2e} std, allowed {tolerance:.0e} std"
