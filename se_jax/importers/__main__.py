"""PyTorch checkpoints in and out.

python -m se_jax.importers --source=FILE --config=configs/X.py --output=DIR      then --config.init_from=DIR
python -m se_jax.importers --export=FILE.safetensors --workdir=DIR               weights of a run, for PyTorch
python -m se_jax.importers --list                                                families, sizes, layouts
"""

import hashlib
import json
import pathlib
import sys
from collections import Counter

from absl import app, flags, logging

from se_jax import cli


def import_file(config, source: str, output: str, layout: str, *, skip_classifier: bool, bgr: bool) -> None:
    """Fills the network of `config`, or its encoder, and writes output/checkpoints/0 and output/import.json.

    Of a whole network also config.json (without equalizers, which no PyTorch checkpoint has) and, where the data set of
    the config is at hand, labels.json: the output can then be evaluated and predict like a run.
    """
    import jax
    import jax.numpy as jnp

    from se_jax import checkpoints, parallel, run
    from se_jax.importers import convert, files
    from se_jax.models import build

    folder = pathlib.Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give another --output")
    state_dict = files.read(source)
    config.model.equalizer.mode = "none"
    network = build(config.model)
    whole = convert.holds_heads(state_dict)
    model = network if whole else network.encoder
    # initial values, for what the checkpoint may lack
    variables = parallel.jit_once(model.init)(jax.random.key(config.seed), jnp.zeros((1, *config.data.crop, 3)))
    try:
        done = convert.match(model, state_dict, variables, layout, skip_classifier=skip_classifier, bgr=bgr)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    filled = done.variables if whole else {name: {"encoder": part} for name, part in done.variables.items()}
    checkpoints.save_variables(folder, jax.device_get(filled))
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        "source": str(pathlib.Path(source).absolute()),
        "sha256": digest,
        "layout": done.layout,
        "tensors": done.used,
        "skipped": done.skipped,
        "kept": done.kept,
        "adapted": done.adapted,
        "model": json.loads(config.model.to_json()),
    }
    run.write_json(folder / run.IMPORT, facts)
    describe(done, "network" if whole else "encoder")
    if whole:
        checkpoints.write_config(folder, config)
        _write_labels(folder, config)
    print(f"written to {output}; train from it with --config.init_from={output}")


def describe(done, what: str) -> None:
    """Prints what became of a checkpoint."""
    print(f"layout {done.layout}: {done.used} tensors fill the {what}")
    for reason, count in Counter(done.skipped.values()).items():
        print(f"skipped {count}: {reason}")
    for path in done.kept:
        print(f"kept its initial value: {path}")
    for note, count in Counter(done.adapted.values()).items():
        print(f"adapted {count}: {note}")


def _write_labels(output: pathlib.Path, config) -> None:
    from se_jax import run

    try:
        import data_pipelines  # which a machine without tensorflow lacks

        run.write_labels(output, data_pipelines.build(config.data).labels)
    except (ImportError, OSError, ValueError) as error:
        print(f"no labels.json, which predicting needs: the data set of the config is not at hand ({error})")


def export_file(workdir: str, path: str, layout: str) -> None:
    """Writes the best checkpoint of a run as a .safetensors file under a layout's names."""
    from se_jax import checkpoints
    from se_jax.importers import convert, files
    from se_jax.models import build

    config, variables = checkpoints.load_for_inference(workdir)
    tensors = convert.export_weights(build(config.model), variables, "mmseg" if layout == "auto" else layout)
    files.write(path, tensors)
    print(f"{len(tensors)} tensors written to {path}")


def list_tables() -> None:
    """Prints a line a family: class, sizes, layouts."""
    from se_jax.importers import tables

    for encoder, layouts in tables.ENCODERS.items():
        sizes = ", ".join(getattr(sys.modules[encoder.__module__], "VARIANTS", {})) or "sizes by its fields"
        print(f"{encoder.__name__:22} {', '.join(layouts):38} {sizes}")
    for head, layouts in tables.LAYOUTS.items():
        print(f"{head.__name__:22} {', '.join(layouts)}")
    print(f"{', '.join(head.__name__ for head in tables.HEADS if head not in tables.LAYOUTS)}: mmseg")


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    logging.set_verbosity(logging.ERROR)  # orbax tells every step of its work
    try:
        if given.list:
            list_tables()
        elif given.export and given.workdir:
            export_file(given.workdir, given.export, given.layout)
        elif given.source and given.config and given.output:
            options = {"skip_classifier": given.skip_classifier, "bgr": given.bgr}
            import_file(given.config, given.source, given.output, given.layout, **options)
        else:
            raise ValueError("give --source, --config and --output, or --export and --workdir, or --list")
    except (ValueError, OSError) as error:
        sys.exit(f"se_jax.importers: {error}")


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_string("source", None, "PyTorch checkpoint to read: .safetensors, .pth, .pkl")
    flags.DEFINE_string("layout", "auto", "Whose names it has, one of --list, or auto.")
    flags.DEFINE_string("output", None, "New directory for the imported weights.")
    flags.DEFINE_bool("skip_classifier", False, "Keep the initial classifiers: the checkpoint has other classes.")
    flags.DEFINE_bool("bgr", False, "The checkpoint's network saw blue, green, red.")
    flags.DEFINE_string("export", None, "New .safetensors file for the weights of the run in --workdir.")
    flags.DEFINE_string("workdir", None, "Directory of the run to export.")
    flags.DEFINE_bool("list", False, "Print the families, their sizes and layouts, and end.")
    app.run(main, flags_parser=cli.parse)
