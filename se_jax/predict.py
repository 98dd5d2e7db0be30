"""Predicts files and folders with a trained network: palette PNG masks and overlays.

python -m se_jax.predict --workdir=DIR --input=FILE_OR_FOLDER --output=DIR
"""

import sys

from se_jax import cli
from se_jax.evaluation.predictor import load, predict_files, read_image

__all__ = ["load", "main", "predict_files", "read_image"]


def main(argv: list[str]) -> None:
    """Command line."""
    from absl import app, flags, logging

    flags.DEFINE_string("workdir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("input", None, "An image, or a folder of images.", required=True)
    flags.DEFINE_string("output", None, "Folder for masks and overlays.", required=True)
    flags.DEFINE_integer("max_pixels", None, "In the place of the run's data.max_pixels.", 1, 178_000_000)
    flags.DEFINE_integer("image_bits", None, "In the place of the run's data.image_bits.", 8, 16)
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint of the run to use.")

    def run(_):
        logging.set_verbosity(logging.ERROR)  # orbax tells every step of its work
        given = flags.FLAGS
        try:
            predictor = load(given.workdir, given.checkpoint)
            reading = {
                name: given[name].value for name in ("max_pixels", "image_bits") if given[name].value is not None
            }
            with cli.ending("se_jax.predict"):
                done, errors = predict_files(predictor, given.input, given.output, **reading)
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.predict: {error}")
        print(f"masks and overlays of {done} image{'s' * (done != 1)} in {given.output}")
        if errors:
            sys.exit("se_jax.predict: left out:\n  " + "\n  ".join(errors))

    app.run(run, argv=argv)


if __name__ == "__main__":
    main(sys.argv)
