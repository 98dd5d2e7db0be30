"""What is installed: the wheel's files, what works without tensorflow, and that a user's own folders are left alone."""

import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of a copy of the sources: a build in place would keep files that are gone."""
    place = tmp_path_factory.mktemp("build")
    for name in ("se_jax", "data_pipelines", "configs"):
        shutil.copytree(ROOT / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(place), "."]
    subprocess.run([sys.executable, *build], cwd=place / "source", check=True, capture_output=True)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment that holds the wheel; the libraries are those of this environment."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    (site,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # which is what an installer does with a wheel of plain Python
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")  # after its own: the wheel's packages come first
    return place / "bin" / "python"


@pytest.fixture
def users_directory(tmp_path):
    """A directory of a user who has a `configs` and an `experiments` of their own."""
    for name in ("configs", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'user'\n")
    (tmp_path / "configs" / "cityscapes_aspp.py").write_text("OWNER = 'user'\n")
    return tmp_path


def run(python, directory, *arguments):
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as in conftest.py
    return subprocess.run([python, *arguments], cwd=directory, capture_output=True, text=True, env=variables)


def test_the_wheel_holds_the_packages_and_the_recipes_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = set()
    for package in ("se_jax", "data_pipelines"):
        paths = [path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        sources |= {str(path.relative_to(ROOT)) for path in paths}
    recipes = {f"se_jax/recipes/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    assert files == sources | recipes
    assert {"se_jax/py.typed", "data_pipelines/py.typed", "se_jax/__init__.pyi"} <= files


def test_a_users_own_folders_are_not_disturbed(python, users_directory):
    program = """
import configs, experiments, configs.cityscapes_aspp, se_jax
from se_jax.config import recipes
assert configs.OWNER == experiments.OWNER == configs.cityscapes_aspp.OWNER == "user"
assert "environment" in se_jax.__file__, se_jax.__file__
assert recipes.folder().name == "recipes"
assert recipes.load("cityscapes_aspp:r101").model.encoder.depth == 101
"""
    ended = run(python, users_directory, "-c", program)
    assert ended.returncode == 0, ended.stderr


def test_a_recipe_trains_by_its_name(python, users_directory):
    """As far as its data set, which is not there."""
    arguments = ("--config=cityscapes_aspp:r101", "--workdir=run", "--config.data.dir=nowhere")
    ended = run(python, users_directory, "-m", "se_jax.main", *arguments)
    assert ended.returncode == 1 and "data.dir='nowhere' is not a directory" in ended.stderr, ended.stderr
    for command in ("train", "browse"):
        ended = run(python, users_directory, "-m", "se_jax", command, "--config=cityscape_asp")
        assert ended.returncode == 1 and "nearest recipes are cityscapes_aspp" in ended.stderr, ended.stderr


WITHOUT_EXTRAS = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "array_record", "clu", "tensorboard")
        return None if absent else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def test_building_and_predicting_need_no_tensorflow(python, users_directory):
    program = """
import runpy, types
import jax, jax.numpy as jnp, numpy as np
from PIL import Image
import se_jax
from se_jax import checkpoints, run, run_config
from se_jax.config import recipes
for name in ("load", "equalize", "fold", "evaluate", "Loss", "Metric"):
    assert callable(getattr(se_jax, name)), name
assert set(dir(se_jax)) >= {"build", "load", "train_and_evaluate", "Equalizer", "Fusion"}
config = recipes.load("shapes_aspp")
config.model.encoder.update(depth=10, width=4)
config.model.decoder.update(channels=8, dilations=(1, 2))
config.model.auxiliary = None
config.model.equalizer.mode = "none"
network = se_jax.build(config.model)
shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
checkpoints.save_variables("run", jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes))
run_config.write("run", config)
classes = config.model.num_classes
spec = {"names": list("abcdefghijklmnop")[:classes], "palette": np.eye(classes, 3), "table": np.arange(256)}
run.write_labels("run", types.SimpleNamespace(**spec))
Image.new("RGB", (32, 32)).save("photo.png")
sys.argv = ["predict", "--workdir=run", "--input=photo.png", "--output=masks"]
runpy.run_module("se_jax.predict", run_name="__main__", alter_sys=True)
"""
    ended = run(python, users_directory, "-c", WITHOUT_EXTRAS + program)
    assert ended.returncode == 0 and "masks and overlays of 1 image" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    "command", ["train --config=shapes_uper --workdir=run", "fit --config=shapes_dupsampling --workdir=run", "check"]
)
def test_what_reads_data_sets_says_what_to_install(python, users_directory, command):
    program = f"from se_jax.__main__ import main; sys.argv = ['se-jax', *{command.split()}]; main()"
    ended = run(python, users_directory, "-c", WITHOUT_EXTRAS + program)
    assert ended.returncode == 1
    assert ended.stderr.startswith("this command reads a data set, and "), ended.stderr
    assert 'pip install "se_jax[data]"' in ended.stderr and len(ended.stderr.splitlines()) == 1, ended.stderr


def test_the_command_lists_what_it_can_do(python, users_directory):
    ended = run(python, users_directory, "-m", "se_jax")
    assert ended.returncode == 0 and all(name in ended.stdout for name in ("train", "evaluate", "predict", "import"))
    ended = run(python, users_directory, "-m", "se_jax", "trian")
    assert ended.returncode == 1 and "did you mean train?" in ended.stderr


def test_the_command_finds_the_modules_of_the_users_directory(python, users_directory):
    """Where the console script starts, sys.path holds its own directory in the place of the current one."""
    program = """
import sys
sys.path = [path for path in sys.path if path]
from se_jax.__main__ import main
sys.argv = ["se-jax", "help"]
main()
import configs
assert configs.OWNER == "user"
"""
    ended = run(python, users_directory, "-c", program)
    assert ended.returncode == 0, ended.stderr
