"""The checkpoints of a run, to go on and to be used. The only orbax import.

workdir/checkpoints/<step>/{variables,progress}: `variables` is what inference needs, and holds the network's
collections by name, beside the parameters' average. Which checkpoint is the best one the history says.
"""

import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from jax.experimental import multihost_utils

from se_jax import checksums, parallel, run, run_config
from se_jax.config.types import ConfigDict

FOLDER = run.CHECKPOINTS
TRAINED = ("params", "batch_stats")  # the collections of variables that training changes
VARIABLES = (*TRAINED, "ema")  # always there, if empty; constants where there are any
PROGRESS = ("step", "opt_state")

# what orbax says of every checkpoint that is only read
logging.get_absl_logger().addFilter(lambda record: "Given directory is read only" not in str(record.msg))


class DamagedCheckpoint(ValueError):
    """No checkpoint of a run can be read as it was written."""


class Checkpoints:
    """The checkpoints of a run: the last `keep`, and the best by a number. Writing goes on in the background.

    `wait` and `close` raise what went wrong while writing.

    Attributes:
      scores: {step: the number of which the highest makes the best checkpoint}, of the steps that were evaluated; who
        evaluates writes them here.
    """

    def __init__(self, workdir, keep: int = 2):
        self.folder = pathlib.Path(workdir).absolute() / FOLDER
        self.scores: dict[int, float] = {}
        self.keep = keep
        self.manager = _manager(self.folder, preservation_policy=self)

    def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
        """Which checkpoints stay, for orbax, which asks whenever there is a new one; in the order of their steps."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        best = _best(steps, self.scores)
        return [step == best or step in steps[-self.keep :] for step in steps]

    @property
    def last(self) -> int | None:
        """Step of the last complete checkpoint; None where there is none."""
        return self.manager.latest_step()

    def save(self, step: int, state: NamedTuple) -> None:
        """Starts saving the state after `step` steps; returns once the state may be donated.

        Raises:
          run.DiskFull: there is no room for it.
        """
        if jax.process_index() == 0:
            run.check_room(self.folder.parent, size(state))
        args = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        self.manager.save(step, args=ocp.args.Composite(**args), force=True)

    def restore(self, state):
        """The newest whole checkpoint, laid out as `state`, a TrainState of jax.ShapeDtypeStructs with shardings.

        Damaged ones after it are told of, and set aside in workdir/damaged.

        Raises:
          ValueError: the checkpoint is of another network; names what differs. Or it holds imported weights only.
          DamagedCheckpoint: none is whole.
        """
        restored, damaged = _read_whole(self.folder, sorted(self.manager.all_steps(), reverse=True), self._read, state)
        for step in damaged:
            if jax.process_index() == 0:
                aside = self.folder.with_name(run.DAMAGED)
                aside.mkdir(exist_ok=True)
                (self.folder / str(step)).rename(_free(aside / str(step)))
        if damaged:
            _together("set aside")
            self.manager.reload()
        return restored

    def _read(self, step: int, state):
        where = self.folder / str(step)
        if not (where / "progress").exists():
            raise _Unsuitable(
                f"{self.folder.parent} holds imported weights, not a run; give another --workdir and this one as "
                "--config.init_from"
            )
        items = _items(state)
        saved = dict(self.manager.item_metadata(step)["variables"])
        _check_same_network(where, saved, items["variables"])
        # earlier versions saved empty collections too
        items["variables"] |= {name: {} for name in saved if name not in items["variables"]}
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        restored = self.manager.restore(step, args=ocp.args.Composite(**args))
        tree = dict(restored["variables"])
        trained = {name: tree.pop(name) for name in (*TRAINED, "ema")}
        constants = {name: part for name, part in tree.items() if part}
        return state._replace(**trained, constants=constants, **restored["progress"])

    def wait(self) -> None:
        """Waits until every checkpoint is written."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.manager.wait_until_finished()
        self.manager.close()


def size(state) -> int:
    """Bytes that a checkpoint of a state, or of its shapes, takes while it is written: each array lies there twice."""
    return 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def last_good(workdir) -> str:
    """Which checkpoint of a run is the last one on the disk, in words."""
    folder = pathlib.Path(workdir) / FOLDER
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return f"last good checkpoint: step {max(steps)} in {folder}" if steps else f"no checkpoint in {folder} yet"


def save_variables(workdir, variables: dict) -> None:
    """Writes variables that come from elsewhere as the only checkpoint of `workdir`, for `init_from` and for inference.

    Raises:
      FileExistsError: the workdir holds checkpoints.
    """
    folder = pathlib.Path(workdir).absolute() / FOLDER
    if folder.exists():
        raise FileExistsError(f"{folder} exists; give another directory, or remove it")
    tree = dict.fromkeys(VARIABLES, {}) | variables
    with _manager(folder) as manager:
        manager.save(0, args=ocp.args.Composite(variables=ocp.args.StandardSave(tree)))


def load_for_inference(workdir, which: str = "best") -> tuple[ConfigDict, dict]:
    """The config and the trained variables of the run in `workdir`.

    Args:
      which: 'best' by config.checkpoint.best (the last one where none was evaluated yet), or 'last'.

    Returns:
      (config, variables as numpy arrays: {'params' (their average where kept), 'batch_stats'[, constants by
      collection]}).

    Raises:
      FileNotFoundError: no run or no checkpoint there. ValueError: another `which`.
    """
    if which not in ("best", "last"):
        raise ValueError(f"checkpoint {which!r} is not known; expected 'best' or 'last'")
    config = run_config.load(workdir)
    tree = _read_variables(pathlib.Path(workdir), which)
    ema = tree.pop("ema", None)
    return config, {name: part for name, part in (tree | ({"params": ema} if ema else {})).items() if part}


def init_from(path, variables: dict, constants=(), *, skip=lambda array: False, advice=lambda differing: "") -> dict:
    """`variables` with the parameters (averaged, where kept) and running statistics of a trained network.

    The statistics of equalizers belong to the data and are measured anew.

    Args:
      constants: collections that come with the parameters, which were trained for them; `Segmenter.constants`.
      path: a workdir, whose best checkpoint is taken, or the directory of one checkpoint, workdir/checkpoints/<step>.
        One of an encoder alone, as importing leaves it, fills the encoder.
      skip: says of an array, by a path such as 'decoder/conv_seg/kernel', whether it keeps its value in `variables`.
      advice: what an error adds, by the paths of the arrays that differ.

    Raises:
      FileNotFoundError: no checkpoint there. ValueError: it is of another network; names what differs.
    """
    path = pathlib.Path(path)
    if path.parent.name == FOLDER and path.name.isdigit():
        tree = _read_variables(path.parent.parent, int(path.name))
    else:
        tree = _read_variables(path, "best")
    loaded = {name: tree[name] for name in (*TRAINED, *constants) if name in tree}
    loaded["params"] = tree["ema"] or tree["params"]
    wanted = {name: variables.get(name, {}) for name in loaded}
    if loaded["params"].keys() == {"encoder"}:
        wanted = {name: {"encoder": part["encoder"]} if "encoder" in part else {} for name, part in wanted.items()}
    loaded, wanted = (_without(tree, skip) for tree in (loaded, wanted))
    _check_same_network(path, loaded, wanted, advice)
    new = jax.tree.map(lambda old, new: jax.device_put(new, old.sharding), wanted, loaded)
    flat = traverse_util.flatten_dict(variables) | traverse_util.flatten_dict(new)
    return variables | traverse_util.unflatten_dict(flat)


def _without(tree: dict, skip) -> dict:
    """Nested variables without the arrays that are skipped."""
    flat = traverse_util.flatten_dict(tree)
    kept = traverse_util.unflatten_dict({key: leaf for key, leaf in flat.items() if not skip("/".join(key[1:]))})
    return dict.fromkeys(tree, {}) | kept


def _read_variables(workdir: pathlib.Path, which) -> dict:
    """The item `variables` of a checkpoint as numpy arrays, read whole by every process.

    In the place of a damaged one the newest whole one is read, which is told; but not of a step that was asked for.
    """
    folder = workdir.absolute() / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    steps = _manager(folder, read_only=True, create=False, save_interval_steps=0)
    found = sorted(steps.all_steps(), reverse=True)
    if not found or (isinstance(which, int) and which not in found):
        wanted = f"checkpoint of step {which}" if isinstance(which, int) else "checkpoint"
        raise FileNotFoundError(f"{folder} holds no {wanted}" + (f"; it has {found[::-1]}" if found else ""))
    best = _best(found, scores(workdir)) if which == "best" else None
    first = which if isinstance(which, int) else found[0] if best is None else best
    everywhere = parallel.replicated(parallel.make_mesh())

    def read(step, _):
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
            dict(steps.item_metadata(step)["variables"]),
        )
        return steps.restore(step, args=ocp.args.Composite(variables=ocp.args.StandardRestore(target)))["variables"]

    others = () if isinstance(which, int) else (step for step in found if step != first)
    restored, _ = _read_whole(folder, [first, *others], read, None)
    steps.close()
    return jax.device_get(dict(restored))


def scores(workdir, best: str | None = None) -> dict[int, float]:
    """{step: the number that chooses the best checkpoint} of the evaluations in a run's history.

    Args:
      best: config.checkpoint.best; by default that of the run. A number that could not be computed counts as 0.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / run.HISTORY).exists():
        return {}
    key = (best or run_config.load(workdir).checkpoint.best).removeprefix("val/")
    return {line["step"]: line[key] or 0.0 for line in run.read_history(workdir / run.HISTORY) if key in line}


def _best(steps: Iterable[int], scores: dict[int, float]) -> int | None:
    """The first step of the highest score; None where none has one."""
    return max(sorted(step for step in steps if step in scores), key=scores.__getitem__, default=None)


class _Unsuitable(ValueError):
    """A checkpoint that is whole, but not what was asked for."""


def _read_whole(folder: pathlib.Path, steps: Sequence[int], read, target) -> tuple:
    """(the first checkpoint that is whole, as `read(step, target)` gives it; the damaged ones before it).

    The first process looks at the checksums; without them a checkpoint that cannot be read counts as damaged.
    """
    damaged = {}
    for step in steps:
        where = folder / str(step)
        reason = checksums.damage(where) if jax.process_index() == 0 else None
        if not _agreed(reason):
            try:
                restored = read(step, target)
            except Exception as error:
                if isinstance(error, _Unsuitable) or (where / checksums.NAME).exists():
                    raise
                reason = f"it cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            else:
                for bad, why in damaged.items():
                    logging.error("Checkpoint %s is damaged: %s. Using that of step %d", folder / str(bad), why, step)
                return restored, list(damaged)
        damaged[step] = reason or "see the first process"
    reasons = "".join(f"\n  {folder / str(step)}: {why}" for step, why in damaged.items())
    raise DamagedCheckpoint(
        f"no whole checkpoint in {folder}; bring one back from a copy, or start anew in another --workdir (here: "
        f"remove {folder} first).{reasons}"
    )


def _agreed(reason: str | None) -> bool:
    """Whether the first process has a reason, in every process."""
    if jax.process_count() == 1:
        return bool(reason)
    return bool(multihost_utils.broadcast_one_to_all(np.int32(bool(reason))))


def _together(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _free(path: pathlib.Path) -> pathlib.Path:
    """The path, or with a number behind it where that is taken."""
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    return next(free for free in itertools.chain([path], numbered) if not free.exists())


ITEMS = ("variables", "progress")


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves it to `se_jax.training.preemption` to ask JAX whether a run is to end.

    JAX agrees with all processes on one of the numbers that it is asked with. Orbax asks with steps, the run with a
    count of its own: of two sequences the number agreed upon may be one that the other has passed, and the run goes on.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


def _items(state) -> dict[str, dict]:
    """What a checkpoint holds, by item."""
    tree = state._asdict()
    progress = {key: tree.pop(key) for key in PROGRESS}
    return {"variables": dict.fromkeys(VARIABLES, {}) | tree.pop("constants") | tree, "progress": progress}


def _manager(folder: pathlib.Path, **options) -> _Manager:
    def seal():
        """Before a checkpoint gets its name: what stands under a name has checksums."""
        if jax.process_index() == 0:
            for unnamed in folder.glob("*.orbax-checkpoint-tmp*"):
                checksums.write(unnamed)

    try:
        return _Manager(
            folder,
            item_handlers={name: ocp.StandardCheckpointHandler() for name in ITEMS},
            options=ocp.CheckpointManagerOptions(
                async_options=ocp.AsyncOptions(post_finalization_callback=seal), **options
            ),
        )
    except ValueError as error:  # of the one file that has no checksum, as orbax writes it last
        raise DamagedCheckpoint(
            f"a _CHECKPOINT_METADATA in {folder} is damaged ({error}); remove that checkpoint's directory, and the one "
            "before it is used"
        ) from error


def _check_same_network(where, found, wanted, advice=lambda differing: "") -> None:
    """Raises ValueError where the arrays of two trees differ by path or shape; see `init_from` for `advice`."""

    def shapes(tree) -> dict:
        leaves = jax.tree_util.tree_leaves_with_path(dict(tree))
        return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}

    theirs, ours = shapes(found), shapes(wanted)
    paths = [path for path in theirs | ours if theirs.get(path) != ours.get(path)]
    if paths:
        shown = [f"{path}: {theirs.get(path, 'absent')} -> {ours.get(path, 'absent')}" for path in paths[:10]]
        more = f"\n  and {len(paths) - 10} more" if len(paths) > 10 else ""
        raise _Unsuitable(
            f"checkpoint {where} is of another network than config.model describes; {len(paths)} arrays differ.\n"
            "Array: in the checkpoint -> in the network\n  "
            + "\n  ".join(shown)
            + more
            + advice([path.partition("/")[2] for path in paths])
        )
