"""Trains and evaluates a network as a config file says.

python -m se_jax.main --config=configs/camvid_aspp.py --workdir=DIR [--config.a.b=value]
python -m se_jax.main --workdir=DIR        goes on with the run there
"""

import sys
import time

BEGUN = time.monotonic()

from absl import app, flags, logging  # noqa: E402

from se_jax import cli  # noqa: E402


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    cli.start(logging.INFO)

    with cli.reading_data():
        from se_jax.training.loop import train_and_evaluate  # only now: it takes seconds, and a wrong flag should not

    try:
        with cli.ending("se_jax.main"):
            train_and_evaluate(given.config, given.workdir, since=BEGUN)
    except (ValueError, OSError, FloatingPointError) as error:
        logging.debug("%s", error, exc_info=True)
        sys.exit(f"se_jax.main: {error}\n(--verbosity=1 shows where this was raised)")


if __name__ == "__main__":
    cli.define_config()
    cli.define_cache()
    flags.DEFINE_string("workdir", None, "Directory for checkpoints, logs and results; a run there is resumed.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=cli.parse_to_go_on)
