"""Trains and evaluates a network as a config file says.

python -m se_jax.main --config=configs/camvid_aspp.py --workdir=DIR [--config.a.b=value]
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags


def main(argv) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    given = flags.FLAGS
    logging.set_verbosity(max(flags.FLAGS.verbosity, logging.INFO))
    # orbax tells every step of its work on the same log, and JAX of the backends that are not there
    logging.get_absl_handler().addFilter(
        lambda record: (
            record.levelname == "ERROR" or not ("orbax" in record.pathname or "xla_bridge" in record.pathname)
        )
    )

    from se_jax.train import train_and_evaluate  # only now: it takes seconds, and a wrong flag should not

    try:
        train_and_evaluate(given.config, given.workdir)
    except (ValueError, OSError, FloatingPointError) as error:
        logging.debug("%s", error, exc_info=True)
        sys.exit(f"se_jax.main: {error}\n(--verbosity=1 shows where this was raised)")


def parse(argv):
    """absl's parser; an option that the config does not have ends with a line instead of a traceback."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:
        reason = error.args[0]  # ml_collections wraps the KeyError that says it in an AttributeError
        sys.exit(f"se_jax.main: the config has no option {reason.args[0] if isinstance(reason, KeyError) else reason}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "File of the experiment, e.g. configs/camvid_aspp.py.")
    flags.DEFINE_string("workdir", None, "Directory for checkpoints, logs and results; a run there is resumed.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
