"""Predicts files and folders with a trained network: palette PNG masks, overlays, and a summary of areas.

python -m se_jax.predict --workdir=DIR --input=FILE_OR_FOLDER --output=DIR [--exact] [--batch_size=N]
    [--probabilities=npz|png] [--classes=road,car]

Images of many sizes are shown to the network in at most 12 sizes, as each one compiles for seconds; --exact shows each
at its own, as the evaluation does.
"""

import sys

from se_jax import cli
from se_jax.evaluation.files import KINDS, predict_files
from se_jax.evaluation.predictor import load


def main(argv: list[str]) -> None:
    """Command line."""
    from absl import app, flags, logging

    flags.DEFINE_string("workdir", None, "Directory of a training run.", required=True)
    flags.DEFINE_string("input", None, "An image, or a folder of images.", required=True)
    flags.DEFINE_string("output", None, "Folder for masks and overlays.", required=True)
    flags.DEFINE_boolean("exact", False, "Show the network each image at the very size that config.eval says.")
    flags.DEFINE_integer("batch_size", None, "Images of one size at a time; the run's eval.batch_size if not given.", 1)
    flags.DEFINE_enum(
        "probabilities", None, KINDS, "Also write the probabilities of all classes, as float16 arrays or 16-bit PNG."
    )
    flags.DEFINE_list("classes", [], "Also write a mask of 0 and 255 for each of these classes: road,car.")
    flags.DEFINE_integer("max_pixels", None, "In the place of the run's data.max_pixels.", 1, 178_000_000)
    flags.DEFINE_integer("image_bits", None, "In the place of the run's data.image_bits.", 8, 16)
    cli.define_cache()
    flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint of the run to use.")

    def run(_):
        cli.start(logging.ERROR)  # orbax tells every step of its work
        given = flags.FLAGS
        try:
            model = load(given.workdir, given.checkpoint)
            reading = {
                name: given[name].value for name in ("max_pixels", "image_bits") if given[name].value is not None
            }
            with cli.ending("se_jax.predict"):
                done, errors = predict_files(
                    model,
                    given.input,
                    given.output,
                    exact=given.exact,
                    batch_size=given.batch_size,
                    probabilities=given.probabilities or "",
                    classes=given.classes,
                    **reading,
                )
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.predict: {error}")
        print(f"masks and overlays of {done} image{'s' * (done != 1)} in {given.output}")
        if errors:
            sys.exit("se_jax.predict: left out:\n  " + "\n  ".join(errors))

    app.run(run, argv=argv)


if __name__ == "__main__":
    main(sys.argv)
