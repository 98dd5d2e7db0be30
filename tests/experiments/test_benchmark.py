"""The benchmark runs, needs neither TensorFlow nor PyTorch, and its PyTorch networks are ours."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark
from experiments.networks import NETWORKS
from se_jax import parallel
from se_jax.importers import import_weights
from se_jax.models import ResNet


def test_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "torch", None)
    monkeypatch.setattr(benchmark, "MODES", {"baseline": "none", "folded": "folded"})
    monkeypatch.setattr(parallel, "jit", parallel.jit_once)  # compiles sooner, runs slower
    flags = ["--networks=resnet_psp", "--size=32", "--batch=2", "--width=4", "--depth=18", "--repeats=1"]
    rows = benchmark.main([*flags, f"--output={tmp_path}"])
    assert [(row["pass"], row["side"]) for row in rows] == [
        ("forward", "baseline"),
        ("forward", "folded"),
        ("forward+backward", "baseline"),
        ("forward+backward", "folded"),
    ]
    for row in rows:
        assert row["seconds"] > 0 and row["images_per_s"] == pytest.approx(2 / row["seconds"])
        assert row["memory_bytes"] > 0 and row["compile_s"] > 0
    assert rows[2]["flops"] > 2 * rows[0]["flops"]
    assert rows[0]["to_baseline"] == 1
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert written["rows"] == rows and written["environment"]["jax"] == jax.__version__
    assert (tmp_path / "benchmark.md").read_text().count("\n| resnet_psp |") == 4
    assert "requirements-bench.txt" in capsys.readouterr().out


def test_imports_no_tensorflow():
    code = "import sys, experiments.benchmark; sys.exit(any(name in sys.modules for name in ('tensorflow', 'clu')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--networks=resnet_fcn,unet"], "names unet; expected some of resnet_fcn"), (["--batch=1"], "at least 2")],
)
def test_wrong_flags_are_named(flags, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_flags(flags)
    assert message in capsys.readouterr().err


def test_networks_that_differ_are_noticed():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-bench.txt)")
    ours = benchmark.Candidate("baseline", lambda: np.arange(8.0).reshape(1, 2, 2, 2), {})
    peer = benchmark.Candidate("pytorch", lambda: torch.arange(8.0).reshape(1, 2, 2, 2), {})
    with pytest.raises(ValueError, match="logits differ"):
        benchmark.check_equal(ours, peer, "float32")


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("resnet")] + ["mit_segformer"])
def test_networks_of_the_peer_are_ours(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-bench.txt)")
    flags = benchmark.parse_flags(["--width=8", "--depth=18"])
    peer, layout = benchmark.make_peer(name, flags)
    peer.eval()
    variables = benchmark.make_variables(name, flags, peer, layout)["baseline"]
    images = np.random.default_rng(0).normal(size=(2, 97, 65, 3)).astype(np.float32)
    actual = jax.jit(benchmark.forward(benchmark.make_model(name, flags, "none")))(variables, images)
    with torch.no_grad():
        expected = peer(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.asarray(actual) - expected).max() <= 5e-5 * expected.std()


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 50, "variant": "v1b", "output_stride": 8},
        {"depth": 50, "variant": "v1d", "output_stride": 32},
        {"depth": 18, "variant": "v1d", "output_stride": 16},
        {"depth": 50, "output_stride": 16, "multi_grid": (1, 2, 4)},
    ],
)
def test_encoders_of_the_peer_are_ours(options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (requirements-bench.txt)")
    from experiments import torch_networks

    peer = torch_networks.randomize(torch_networks.ResNet(width=8, **options)).eval()
    ours = ResNet(width=8, **options)
    state = {name: tensor.numpy() for name, tensor in peer.state_dict().items()}
    variables = import_weights(ours, state, jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    images = np.random.default_rng(0).normal(size=(1, 97, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = [maps.permute(0, 2, 3, 1).numpy() for maps in peer(torch.from_numpy(images).permute(0, 3, 1, 2))]
    for actual, reference in zip(jax.jit(ours.apply)(variables, images), expected, strict=True):
        assert np.abs(np.asarray(actual) - reference).max() <= 5e-5 * reference.std()
