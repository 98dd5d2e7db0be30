"""Wall time of an evaluation: networks compiled one by one, in threads ahead of the devices, and kept from before.

python -m experiments.benchmark_evaluation --config=ade20k_aspp --dir=DIR [--split=validation] [--rounds=1]

A recipe's network with weights drawn at random evaluates the images of a split as the recipe says. Three ways take
turns in one process, each from nothing: 'one by one' compiles a network when the first image of its size comes,
'ahead' is what the library does (`Inference.compile_ahead`), and 'kept' does the same with the compiled programs that
'ahead' left on the disk, as a second run of a command finds them. Needs an otherwise idle machine.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

import data_pipelines
from se_jax import parallel
from se_jax.config import recipes
from se_jax.equalizer.sites import find_sites, identity_statistics
from se_jax.evaluation import evaluator, inference
from se_jax.evaluation.protocol import protocol
from se_jax.models import build

WAYS = ("one by one", "ahead", "kept")


def prepare(name: str, directory: str, split: str):
    """(config, data, network, its variables) of a recipe whose validation images are those of `split`."""
    config = recipes.load(name)
    config.data.dir, config.data.val_split = directory, split or None
    data, model = data_pipelines.build(config.data), build(config.model)
    images = jnp.zeros((2, *config.data.crop, 3))
    variables = parallel.jit_once(model.init)(jax.random.key(0), images)
    return config, data, model, variables | {"equalizer": identity_statistics(find_sites(model, images))}


def measure(way: str, place: str, config, data, model, variables) -> dict:
    """One evaluation from nothing: its wall time, and how many networks were compiled or read from `place`."""
    jax.clear_caches()
    inference._build.cache_clear()
    compilation_cache.reset_cache()
    jax.config.update("jax_enable_compilation_cache", way != "one by one")
    jax.config.update("jax_compilation_cache_dir", place)
    mesh = parallel.make_mesh(config)
    programs = inference.build(model, protocol(config.eval), mesh)
    as_they_come = mock.patch.object(programs, "compile_ahead", lambda *_: [])
    begun = time.perf_counter()
    with as_they_come if way == "one by one" else contextlib.nullcontext():
        evaluator.evaluate(model, variables, data.val, data.labels, config.eval, mesh)
    return {"seconds": time.perf_counter() - begun, "networks": programs.compilations["network"]}


def main(arguments=None) -> dict:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmark_evaluation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--config", default="ade20k_aspp", help="a recipe, name or name:variant")
    parser.add_argument("--dir", required=True, help="of its data set")
    parser.add_argument("--split", default="", help="of the data set, by default that of the recipe")
    parser.add_argument("--rounds", type=int, default=1, help="of which minima are told")
    flags = parser.parse_args(arguments)
    parts = prepare(flags.config, flags.dir, flags.split)
    found = {way: [] for way in WAYS}
    for _ in range(flags.rounds):
        with tempfile.TemporaryDirectory() as place:
            for way in WAYS:
                found[way].append(measure(way, place, *parts))
                print(json.dumps({"way": way} | found[way][-1]), flush=True)
    best = {way: min(one["seconds"] for one in rounds) for way, rounds in found.items()}
    result = {
        "images": len(parts[1].val),
        "networks": found[WAYS[0]][0]["networks"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "seconds": best,
        "to one by one": {way: best[way] / best[WAYS[0]] for way in WAYS[1:]},
    }
    print(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
