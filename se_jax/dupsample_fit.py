"""Fits DUpsampling's decoder of label patches to the training labels of a config, before training.

python -m se_jax.dupsample_fit --config=configs/camvid_dupsampling.py --workdir=DIR [--method=sgd] [--config.a.b=value]
python -m se_jax.main --config=configs/camvid_dupsampling.py --config.constants_from=DIR --workdir=DIR2
"""

import sys

from absl import app, flags, logging

from se_jax import cli

METHODS = ("auto", "dense", "randomized", "sgd")


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    cli.start(logging.INFO)
    with cli.reading_data():
        import data_pipelines  # noqa: F401
    try:
        from se_jax.dupsampling.fit import fit

        fit(given.config, given.workdir, given.method)
    except (ValueError, OSError) as error:
        sys.exit(f"se_jax.dupsample_fit: {error}")


if __name__ == "__main__":
    cli.define_config()
    cli.define_cache()
    flags.DEFINE_string("workdir", None, "Directory for the fit.")
    flags.DEFINE_enum("method", "auto", METHODS, "Of the fit; auto is one of the two forms of PCA.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=cli.parse)
