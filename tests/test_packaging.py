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
    return subprocess.run(
        [python, *arguments], cwd=directory, capture_output=True, text=True, env=variables | {"JAX_PLATFORMS": "cpu"}
    )


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
    for command in (("-m", "se_jax.main"), ("-m", "se_jax", "train")):
        ended = run(python, users_directory, *command, *arguments)
        assert ended.returncode == 1 and "data.dir='nowhere' is not a directory" in ended.stderr, ended.stderr
    ended = run(python, users_directory, "-m", "se_jax.main", "--config=cityscape_asp", "--workdir=run")
    assert "nearest recipes are cityscapes_aspp" in ended.stderr


def test_building_and_predicting_need_no_tensorflow(python, users_directory):
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "array_record", "clu", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import se_jax
from se_jax.config import recipes
model = se_jax.build(recipes.load("shapes_uper").model)
for name in ("Predictor", "load", "equalize", "fold", "Loss", "Metric", "evaluate"):
    assert callable(getattr(se_jax, name)), name
assert set(dir(se_jax)) >= {"build", "load", "train_and_evaluate", "Equalizer", "Fusion"}
import runpy
sys.argv = ["main", "--config=shapes_uper", "--workdir=run"]
runpy.run_module("se_jax.main", run_name="__main__", alter_sys=True)
"""
    ended = run(python, users_directory, "-c", program)
    assert 'is not installed. pip install "se_jax[data]"' in ended.stderr, ended.stderr


def test_the_command_lists_what_it_can_do(python, users_directory):
    ended = run(python, users_directory, "-m", "se_jax")
    assert ended.returncode == 0 and all(name in ended.stdout for name in ("train", "evaluate", "predict", "import"))
    ended = run(python, users_directory, "-m", "se_jax", "trian")
    assert ended.returncode == 1 and "did you mean train?" in ended.stderr
