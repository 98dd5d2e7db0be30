"""Writes a trained network as a file that runs without this library.

python -m se_jax.export --workdir=DIR --format=stablehlo|savedmodel|tflite|onnx --size=HEIGHT,WIDTH --output=FILE
    [--batch=1|any] [--outputs=ids|probabilities] [--checkpoint=best|last] [--config.eval.mode=slide ...]

Beside the file lies FILE.json with the classes, their colours, the config and the versions. See docs/export.md.
"""

import re
import sys

from absl import logging


def main(argv: list[str]) -> None:
    """Command line: the run's own config is the default of every --config.a.b=value flag."""
    from absl import app, flags
    from ml_collections import config_flags

    from se_jax import cli, run_config
    from se_jax.evaluation.predictor import load
    from se_jax.evaluation.program import OUTPUTS
    from se_jax.exporters import FORMATS, export

    cli.define_cache()
    for holder in (flags.FLAGS, given := flags.FlagValues()):
        flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=holder)
        flags.DEFINE_enum("format", None, list(FORMATS), "What to write.", flag_values=holder)
        flags.DEFINE_string("size", None, "Images' HEIGHT,WIDTH.", flag_values=holder)
        flags.DEFINE_string("output", None, "New file; a directory for savedmodel.", flag_values=holder)
        flags.DEFINE_string("batch", "1", "Images at once: a number, or any.", flag_values=holder)
        flags.DEFINE_enum("outputs", "ids", OUTPUTS, "What comes out of it.", flag_values=holder)
        flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which of its checkpoints.", flag_values=holder)
    given(argv, known_only=True)  # a first look: the config flags can only be defined from the run's config

    def work(_):
        cli.start(logging.ERROR)  # orbax tells every step of its work
        try:
            model = load(given.workdir, given.checkpoint, config=overridden.value)
            size, batch = _size(given.size), _batch(given.batch)
            with cli.ending("se_jax.export"):
                beside = export(model, given.output, given.format, size, batch=batch, outputs=given.outputs)
        except (OSError, ValueError, ModuleNotFoundError) as error:
            sys.exit(f"se_jax.export: {error}")
        print(f"{given.output}: {given.format}, images of {size[0]}x{size[1]}; {beside} says what goes in and out")

    missing = [name for name in ("workdir", "format", "size", "output") if given[name].value is None]
    if missing and cli.asks_for_help(argv):
        app.run(work, argv=argv)
    if missing:
        sys.exit(f"se_jax.export: --{missing[0]} must have a value; see --help")
    try:
        config = run_config.load(given.workdir)
        cli.check_names(config, argv)
        overridden = config_flags.DEFINE_config_dict("config", config)
    except (OSError, ValueError, flags.Error) as error:
        sys.exit(f"se_jax.export: {error}")
    app.run(work, argv=argv, flags_parser=cli.parse)


def _size(text: str) -> tuple[int, int]:
    if not (found := re.fullmatch(r"\(?\s*(\d+)\s*[,x]\s*(\d+)\s*\)?", text)) or "0" in found.groups():
        raise ValueError(f"--size is {text!r}; expected HEIGHT,WIDTH, e.g. 512,1024")
    return int(found[1]), int(found[2])


def _batch(text: str) -> int | None:
    if text != "any" and not text.isdecimal():
        raise ValueError(f"--batch is {text!r}; expected a number of images, or any")
    return None if text == "any" else int(text)


if __name__ == "__main__":
    main(sys.argv)
