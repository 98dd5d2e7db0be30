"""PyTorch checkpoints in and out.

python -m se_jax.importers --source=FILE --config=configs/X.py --output=DIR      then --config.init_from=DIR
    --base=FILE where the encoder of the source is the difference to another one (EoMT's on DINOv3)
python -m se_jax.importers --export=FILE.safetensors --workdir=DIR [--plain]     weights of a run, for PyTorch
python -m se_jax.importers --list                                                families, sizes, layouts
"""

import hashlib
import json
import pathlib
import sys
from collections import Counter

from absl import app, flags, logging

from se_jax import cli


def import_file(config, source, output: str, layout: str, *, skip_classifier: bool, bgr: bool, base: str = "") -> None:
    """Fills the network of `config`, or its encoder, and writes output/checkpoints/0 and output/import.json.

    Of a whole network also config.json (without equalizers, which no PyTorch checkpoint has) and, where the data set of
    the config is at hand, labels.json: the output can then be evaluated and predict like a run.
    """
    import jax
    import jax.numpy as jnp
    from flax import traverse_util

    from se_jax import checkpoints, parallel, run, run_config
    from se_jax.config import check
    from se_jax.config.normalization import IMAGENET, for_channels, text
    from se_jax.importers import convert, differences, files
    from se_jax.importers.packages import locate
    from se_jax.importers.rules import TAP_BIAS
    from se_jax.importers.skip import Skip
    from se_jax.models import build

    skipping, config.init_skip = config.init_skip, ""  # of this import, not of what is evaluated later
    check.check(config)
    folder = pathlib.Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give another --output")
    source = locate(source)
    state_dict = files.read(source)
    # no PyTorch network has equalizers, but an exported one may have them in its weights
    config.model.equalizer.mode = "folded" if any(name.endswith(f".{TAP_BIAS}") for name in state_dict) else "none"
    network = build(config.model)
    network = network.clone(normalization=for_channels(network.normalization, config.data.channels))
    skip = Skip(",".join(filter(None, (skipping, "classifier" * skip_classifier))), network)
    whole = convert.holds_heads(state_dict)
    model = network if whole else network.encoder
    if base and not whole:
        raise ValueError(f"{source} holds an encoder alone; --base is for whole networks whose encoder is a difference")
    # initial values, for what the checkpoint may lack
    variables = parallel.jit_once(model.init)(
        jax.random.key(config.seed), jnp.zeros((1, *config.data.crop, network.channels))
    )
    try:
        done = convert.match(model, state_dict, variables, layout, skip=skip, bgr=bgr)
        skip.check("/".join(key[1:]) for key in traverse_util.flatten_dict(variables))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    done = differences.add(done, locate(base), network) if base else done
    expected = for_channels(done.normalization or IMAGENET, config.data.channels)
    if done.normalization or config.data.channels != 3:
        config.model.normalization = config.model.normalization or expected
    filled = done.variables if whole else {name: {"encoder": part} for name, part in done.variables.items()}
    checkpoints.save_variables(folder, jax.device_get(filled))
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {
        "source": str(pathlib.Path(source).absolute()),
        "sha256": digest,
        "base": base,
        "layout": done.layout,
        "tensors": done.used,
        "skipped": done.skipped,
        "kept": done.kept,
        "adapted": done.adapted,
        "normalization": config.model.normalization,
        "model": json.loads(config.model.to_json()),
    }
    run.write_json(folder / run.IMPORT, facts)
    describe(done, "network" if whole else "encoder")
    used, expected = (text(each) for each in (config.model.normalization or IMAGENET, expected))
    print(f"images are normalised by {used}" + ("" if used == expected else f", though such weights expect {expected}"))
    if whole:
        run_config.write(folder, config)
        _write_labels(folder, config)
    mode = " --config.model.equalizer.mode=folded" if config.model.equalizer.mode == "folded" else ""
    print(f"written to {output}; train from it with --config.init_from={output}{mode}")


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


def export_file(workdir: str, path: str, layout: str, *, plain: bool = False) -> None:
    """Writes the best checkpoint of a run as a .safetensors file under a layout's names.

    Explicit equalizers are folded first: what of them is no weight, the border terms, becomes tensors `tap_bias`
    [out, kh, kw], which PyTorch's networks do not know; with `plain` it goes into the BatchNorms behind, and how far
    the logits of an image are then from those of the run is printed.
    """
    from se_jax import checkpoints
    from se_jax.equalizer.fold import fold, without_borders
    from se_jax.importers import convert, files, tables
    from se_jax.models import build

    config, variables = checkpoints.load_for_inference(workdir)
    model = build(config.model)
    if variables.get("equalizer"):
        model, variables = model.with_equalizer(mode="folded"), fold(variables)
        print("scale equalizers are folded into the weights")
    if plain:
        given = model, variables
        model, variables = model.with_equalizer(mode="none"), without_borders(variables)
        print(_difference(config, given, (model, variables)))
    layout = next(iter(tables.tables_of(model.encoder))) if layout == "auto" else layout  # mmseg where it exists
    tensors = convert.export_weights(model, variables, layout)
    files.write(path, tensors, model.normalization)
    borders = [name for name in tensors if name.endswith(".tap_bias")]
    print(f"{len(tensors)} tensors written to {path}")
    if borders:
        print(
            f"{len(borders)} of them are border terms, which PyTorch's networks do not know: {', '.join(borders)}. "
            "--plain puts them into the BatchNorms behind, and says what that changes"
        )


def _difference(config, exact, plain) -> str:
    """How far the scores of two networks, each (model, variables), are from each other on an image."""
    import jax
    import numpy as np

    image, what = _image(config)
    logits = [
        np.asarray(jax.jit(_scores, static_argnums=0)(model, variables, model.normalize(image[None])))
        for model, variables in (exact, plain)
    ]
    apart = np.abs(logits[1] - logits[0])
    other = np.mean(logits[0].argmax(-1) != logits[1].argmax(-1))
    return (
        f"border terms are in the BatchNorms: on {what} the logits differ by at most {apart.max():.4g}, "
        f"{apart.mean():.4g} on average (their standard deviation is {logits[0].std():.4g}); {other:.2%} of the pixels "
        "have another class"
    )


def _scores(model, variables, images):
    """Logits resized to the images, or what a head has in their place."""
    return model.scores(model.apply(variables, images), images.shape[1:3])


def _image(config):
    """An image of the validation set as evaluation sees it, or noise where it is not at hand, and what it is."""
    import numpy as np

    try:
        import data_pipelines  # which a machine without tensorflow lacks

        data = data_pipelines.build(config.data)
        image, _ = data_pipelines.read_example(data.val, data.labels, 0)
        height, width = (side // 32 * 32 for side in image.shape[:2])
        return image[:height, :width], f"the first image of {data.val.name} ({width}x{height})"
    except (ImportError, OSError, ValueError) as error:
        height, width = config.data.crop
        noise = np.random.default_rng(0).integers(0, 256, (height, width, config.data.channels), dtype=np.uint8)
        return noise, f"noise of {width}x{height}, as the data set is not at hand ({error}),"


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
    cli.start(logging.ERROR)  # orbax tells every step of its work
    try:
        if given.list:
            list_tables()
        elif given.export and given.workdir:
            export_file(given.workdir, given.export, given.layout, plain=given.plain)
        elif given.source and given.config and given.output:
            options = {"skip_classifier": given.skip_classifier, "bgr": given.bgr, "base": given.base}
            import_file(given.config, given.source, given.output, given.layout, **options)
        else:
            raise ValueError("give --source, --config and --output, or --export and --workdir, or --list")
    except (ValueError, OSError) as error:
        sys.exit(f"se_jax.importers: {error}")


if __name__ == "__main__":
    cli.define_config()
    cli.define_cache()
    flags.DEFINE_string("source", None, "PyTorch checkpoint to read: .safetensors, .pth, .pkl")
    flags.DEFINE_string("layout", "auto", "Whose names it has, one of --list, or auto.")
    flags.DEFINE_string("output", None, "New directory for the imported weights.")
    flags.DEFINE_bool("skip_classifier", False, "As --config.init_skip=classifier: keep the initial classifiers.")
    flags.DEFINE_bool("bgr", False, "The checkpoint's network saw blue, green, red.")
    flags.DEFINE_string("base", "", "Checkpoint to which the encoder of the source is the difference.")
    flags.DEFINE_string("export", None, "New .safetensors file for the weights of the run in --workdir.")
    flags.DEFINE_string("workdir", None, "Directory of the run to export.")
    flags.DEFINE_bool("plain", False, "Border terms of equalizers go into the BatchNorms behind, up to the border.")
    flags.DEFINE_bool("list", False, "Print the families, their sizes and layouts, and end.")
    app.run(main, flags_parser=cli.parse)
