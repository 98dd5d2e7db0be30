"""Fixtures for every test: eight fake CPU devices, full float32 products, golden cases of the PyTorch reference."""

import functools
import gc
import json
import os
import pathlib

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # the suite compiles much and runs little: four times faster
# and three times faster again: XLA's older code for fused operations, every program compiled as one piece
os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # commands keep compiled programs; tests compile their own
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the suite is written for a CPU; an accelerator would change its tolerances

import hypothesis
import jax
import numpy as np
import pytest
from absl import logging

from se_jax.models import platforms

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")

# Tracing makes millions of objects and few circles: looking for those was an eighth of the time of test_networks
gc.freeze()
gc.set_threshold(100_000, 50, 50)

# Floats are compared: a test that passes once passes again.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

SHARED = pathlib.Path(os.environ.get("SE_JAX_SHARED") or pathlib.Path(__file__).resolve().parents[2] / "shared")
GOLDEN = pathlib.Path(__file__).parent / "golden"  # what of SHARED / "golden" is small, or a part of it; see its README


class GoldenCase:
    """Inputs, weights and outputs of one case of the PyTorch reference.

    `case["in/0"]` is an array, `case.meta` the case's description. Where that has a `part`, the case is a part of
    another: an array that it lacks is looked for there, and if that is not at hand the test is skipped.
    """

    def __init__(self, path: pathlib.Path):
        self.name = path.stem
        with np.load(path) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files if key != "meta"}
            self.meta = json.loads(str(arrays["meta"]))

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.arrays and "part" in self.meta:
            return whole_case(self.name)[key]
        return self.arrays[key]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays whose key starts with `prefix/`, by the rest of their key."""
        return {key[len(prefix) + 1 :]: value for key, value in self.arrays.items() if key.startswith(prefix + "/")}


def is_in_repository(name: str) -> bool:
    """Whether the repository has that golden case, or a part of it."""
    return (GOLDEN / f"{name}.npz").exists()


@functools.cache
def whole_case(name: str) -> GoldenCase:
    """The reference's case as it was recorded; skips where that is not at hand."""
    theirs = SHARED / "golden" / f"{name}.npz"
    if theirs.exists():
        return GoldenCase(theirs)
    if is_in_repository(name) and "part" not in (case := GoldenCase(GOLDEN / f"{name}.npz")).meta:
        return case
    pytest.skip(f"golden case {theirs} is not at hand (outputs of the PyTorch reference, kept outside the project)")


@pytest.fixture(scope="session")
def golden():
    """`golden(name)` -> the repository's GoldenCase of that name, which may be a part; `golden(name, "whole")`: all.

    Cases that the repository does not have are looked for outside it, and the test is skipped where they are not.
    """

    @functools.cache
    def load(name: str, which: str = "part") -> GoldenCase:
        if which == "part" and is_in_repository(name):
            return GoldenCase(GOLDEN / f"{name}.npz")
        return whole_case(name)

    return load


# For tests of cases of which the repository has a part: once with that, once with the whole
part_and_whole = pytest.mark.parametrize("which", ["part", "whole"])


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data(name)` -> directory of a real data set; skips where it is not at hand."""

    def find(name: str) -> pathlib.Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"data set {path} is not at hand (its licence forbids keeping it in the project)")
        return path

    return find


@pytest.fixture(autouse=True)
def every_line_of_the_log():
    """Commands, which tests call in their own process, set how much absl's log says: the next test hears all again."""
    logging.get_absl_logger().setLevel("NOTSET")


@pytest.fixture
def accelerator_form():
    """Networks as traced for a TPU or GPU; a CPU's own forms take longer to trace."""
    with platforms.for_platform("tpu"):
        yield


@pytest.fixture(params=["cpu", "accelerator"])
def platform_form(request):
    """The test runs twice: with the operations' forms for a CPU, and with those for a TPU or GPU."""
    with platforms.for_platform("cpu" if request.param == "cpu" else "tpu"):
        yield request.param


def assert_close_to_reference(actual, reference, tolerance=5e-5):
    """max|difference| <= tolerance * std(reference): separates right from wrong in every golden case."""
    actual, reference = np.asarray(actual), np.asarray(reference)
    assert actual.shape == reference.shape
    error = np.abs(actual - reference).max() / max(reference.std(), 1e-12)
    assert error <= tolerance, f"max|difference| = {error:.2e} std, allowed {tolerance:.0e} std"
