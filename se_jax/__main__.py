"""One command for all: `se-jax train --config=cityscapes_aspp --workdir=DIR`, or `python -m se_jax train ...`."""

import difflib
import os
import runpy
import sys

from se_jax import cli

COMMANDS = {
    "train": ("se_jax.main", "train and evaluate a network as a config says"),
    "evaluate": ("se_jax.evaluate", "score a trained network, or write a submission"),
    "predict": ("se_jax.predict", "masks and overlays of files and folders"),
    "export": ("se_jax.export", "a trained network as StableHLO, SavedModel, TFLite or ONNX"),
    "compare": ("se_jax.compare", "runs side by side: a table and a page"),
    "sweep": ("se_jax.sweep", "train with every combination of some options, and several seeds"),
    "import": ("se_jax.importers", "PyTorch checkpoints in and out"),
    "fit": ("se_jax.dupsample_fit", "fit DUpsampling's decoder of label patches, before training"),
    "browse": ("data_pipelines.browse", "a page of augmented training pictures"),
    "check": ("data_pipelines.check", "look a data set over"),
    "prepare": ("data_pipelines.prepare", "write a data set as shards"),
}


def main() -> None:
    """Runs the command that the first argument names; the rest are its flags."""
    if os.getcwd() not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: an option can name a part of the user's own modules
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        _run(COMMANDS[name][0], sys.argv[2:])
        return
    lines = [f"  {command:10} {what}  (python -m {module})" for command, (module, what) in COMMANDS.items()]
    text = "usage: se-jax COMMAND --flag=value ...\n" + "\n".join(lines) + "\nse-jax COMMAND --help says its flags."
    if name in ("", "help", "-h", "--help"):
        print(text)
        return
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    sys.exit(f"se-jax has no command {name!r}" + (f"; did you mean {near[0]}?" if near else "") + f"\n{text}")


def _run(module: str, arguments: list[str]) -> None:
    """Runs a command's module as `python -m` does.

    Not by an import, which would put the module se_jax.evaluate in the place of the function of that name.
    """
    sys.argv[1:] = arguments
    if not module.startswith("data_pipelines."):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    # data_pipelines knows nothing of se_jax: neither its recipes' names, nor the name of what is to be installed
    try:
        sys.argv[1:] = cli.with_files(arguments)
    except FileNotFoundError as error:
        sys.exit(f"--config: {error}")
    with cli.reading_data():
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
