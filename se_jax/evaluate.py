"""Evaluates a trained network on its data set, or writes its predictions as a benchmark takes them.

python -m se_jax.evaluate --workdir=DIR [--checkpoint=best|last] [--config.eval.tta=True] [--config.data.dir=DIR]
    [--config.eval.mode=slide --config.eval.window="(512, 512)" --config.eval.stride="(341, 341)"]
    [--submission=DIR]

It prints the per-class table and leaves in the workdir evaluation.json, evaluation.html (a page with the confusion
matrix and each class's worst images) and the arrays of that page; report.html stays that of the training run. With
--submission nothing is scored: see `se_jax.evaluation.submission`.
"""

import sys

from absl import logging


def main(argv: list[str]) -> None:
    """Command line: the run's own config is the default of every --config.a.b=value flag."""
    from absl import app, flags
    from ml_collections import config_flags

    from se_jax import checkpoints, cli, multihost, run_config
    from se_jax.config import check
    from se_jax.evaluation import evaluator, submission

    cli.define_cache()
    for holder in (flags.FLAGS, given := flags.FlagValues()):
        flags.DEFINE_string("workdir", None, "Directory of a run.", flag_values=holder)
        flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which of its checkpoints.", flag_values=holder)
        flags.DEFINE_string(
            "submission", None, "New directory for predictions as the benchmark wants them.", flag_values=holder
        )
    given(argv, known_only=True)  # a first look: the config flags can only be defined from the run's config

    def work(_):
        cli.start(logging.ERROR)  # orbax tells every step of its work
        with cli.reading_data():
            import data_pipelines  # noqa: F401
        try:
            config = overridden.value
            check.check(config)
            with cli.ending("se_jax.evaluate"), multihost.joined(config.multihost, config.multihost_timeout):
                _, variables = checkpoints.load_for_inference(given.workdir, given.checkpoint)
                if given.submission is None:
                    evaluator.evaluate_run(config, variables, given.workdir, given.checkpoint)
                else:
                    submission.run(config, variables, given.submission)
        except (OSError, ValueError) as error:
            sys.exit(f"se_jax.evaluate: {error}")

    if given.workdir is None and cli.asks_for_help(argv):
        app.run(work, argv=argv)
    if given.workdir is None:
        sys.exit("se_jax.evaluate: name the run to evaluate: --workdir=DIR")
    try:
        config = run_config.load(given.workdir)
        config.multihost = False  # whatever the run did: where it is evaluated decides
        cli.check_names(config, argv)
        overridden = config_flags.DEFINE_config_dict("config", config)
    except (OSError, ValueError, flags.Error) as error:
        sys.exit(f"se_jax.evaluate: {error}")
    app.run(work, argv=argv, flags_parser=cli.parse)


if __name__ == "__main__":
    main(sys.argv)
