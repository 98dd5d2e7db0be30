"""Damaged files, one at a time: what the library makes of each. Used by `experiments.faults`.

A kind is a class: it makes good files once, and `trial(rng)` damages one and says what came of it:
'error' (one that names the file), 'unharmed' (what is read is what was written), 'SILENT' (something else is read, and
nothing is said), 'CRASH' (an error of another kind, which a user sees as a traceback).
"""

import contextlib
import io
import json
import pathlib
import shutil
import traceback

import numpy as np
from PIL import Image

OUTCOMES = ("error", "unharmed", "SILENT", "CRASH")


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One of the ways in which files go wrong: bits flipped, a part lost, zeroed, doubled or moved, all of it gone."""
    changed = bytearray(data)
    if not data:
        return b"x"
    at, end = sorted(int(x) for x in rng.integers(0, len(data) + 1, 2))
    match rng.integers(0, 7):
        case 0 | 1:  # the most frequent one, and the hardest to see
            for place in rng.integers(0, len(data), rng.integers(1, 4)):
                changed[place] ^= 1 << int(rng.integers(0, 8))
        case 2:
            del changed[at:]
        case 3:
            del changed[at : min(end, at + 64)]
        case 4:
            changed[at:end] = bytes(end - at)
        case 5:
            changed[at:at] = changed[at : min(end, at + 64)]
        case 6:
            changed = bytearray(rng.bytes(len(data))) if rng.random() < 0.5 else bytearray()
    return bytes(changed)


def judge(read, name: str, expected) -> tuple[str, str]:
    """(outcome, what was said): reads, and compares with what should be read. name: must stand in an error."""
    try:
        found = read()
    except (ValueError, OSError) as error:
        said = str(error)
        return ("error" if name in said and "\n  File " not in said else "CRASH"), said
    except Exception:
        return "CRASH", traceback.format_exc()
    same = same_bits(found, expected)
    return ("unharmed" if same else "SILENT"), ""


def same_bits(a, b) -> bool:
    """Whether two trees of arrays are the same bits."""
    import jax

    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(leaves) == len(others) and all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y) for x, y in zip(leaves, others, strict=True)
    )


class Pictures:
    """Images (form 'PNG' or 'JPEG'), or annotations (form 'mask')."""

    def __init__(self, folder: pathlib.Path, form: str):
        from data_pipelines.shapes import scene

        self.form, self.files = form, []
        for index in range(6):
            image, label = scene("train", index, (48, 64))
            picture, data = Image.fromarray(label if form == "mask" else image), io.BytesIO()
            picture.save(data, format="JPEG" if form == "JPEG" else "PNG")
            self.files.append(data.getvalue())

    def _read(self, data: bytes):
        from data_pipelines import pictures

        if self.form == "mask":
            return pictures.decode_mask(data, "the_file").pixels
        return pictures.decode_image(data, "the_file")

    def trial(self, rng) -> tuple[str, str]:
        good = self.files[rng.integers(0, len(self.files))]
        bad = mutate(good, rng)
        return judge(lambda: self._read(bad), "the_file", self._read(good))


class ClassFiles:
    """classes.json, with which a mask of every id is read."""

    CONTENTS = (
        {"classes": ["a", "b", "c"]},
        {"classes": ["a", "b"], "ids": [0, 255], "palette": [[0, 0, 0], [255, 255, 255]]},
        {"classes": ["a", "b"], "ids": [[1, 2], 3], "ignore": [0]},
        {"classes": ["a", "b"], "reduce_zero_label": True},
    )

    def __init__(self, folder: pathlib.Path):
        from data_pipelines import class_file

        self.parse = class_file.parse

    def _labels(self, text: str, ids: np.ndarray):
        return self.parse(text, "the_file").read(ids, "the_file's mask")

    def trial(self, rng) -> tuple[str, str]:
        good = json.dumps(self.CONTENTS[rng.integers(0, len(self.CONTENTS))])
        spec = self.parse(good, "the_file")
        ids = np.asarray(spec.allowed(), np.uint8)[None]
        bad = mutate(good.encode(), rng)

        def read():
            try:
                text = bad.decode()
            except UnicodeDecodeError as error:  # what opening the file raises
                raise ValueError(f"the_file: {error}") from error
            return self._labels(text, ids)

        return judge(read, "the_file", spec.read(ids, ""))


class Checkpoints:
    """The files of the newer one of two checkpoints of a run. The older one in its place, told of, is an 'error'."""

    def __init__(self, folder: pathlib.Path):
        import jax.numpy as jnp
        import optax

        from se_jax import checkpoints
        from se_jax.training import state

        self.folder, self.checkpoints = folder, checkpoints
        self.run = folder / "run"
        kernel = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 16, 16)), jnp.float32)
        new = state.create({"params": {"conv": {"kernel": kernel}}, "batch_stats": {}}, optax.sgd(0.1, momentum=0.9))
        self.states = [new, new._replace(params={"conv": {"kernel": 2 * kernel}})]
        store = checkpoints.Checkpoints(self.run)
        for step, each in enumerate(self.states, start=1):
            store.save(step, each)
        store.close()

    def trial(self, rng) -> tuple[str, str]:
        import jax

        from se_jax import parallel

        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run, copy)
        files = sorted(path for path in (copy / "checkpoints" / "2").rglob("*") if path.is_file())
        path = files[rng.integers(0, len(files))]
        path.write_bytes(mutate(path.read_bytes(), rng))
        here = parallel.replicated(parallel.make_mesh())
        blank = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), self.states[1])

        def restore():
            with contextlib.closing(self.checkpoints.Checkpoints(copy)) as store:
                return store.restore(blank)

        found = judge(restore, str(copy), self.states[1])
        older = (copy / "damaged" / "2").exists() and same_bits(restore(), self.states[0])
        if found[0] == "SILENT" and older:
            found = "error", "the older checkpoint, told of"
        return found


class RunFiles:
    """config.json and history.jsonl of a run that is started again with its config, which is compared with the file's.

    A changed digit in a history cannot be seen: it is judged only by whether reading it goes wrong without a name.
    """

    def __init__(self, folder: pathlib.Path):
        from se_jax import checkpoints, run_config
        from se_jax.config import recipes

        self.folder, self.check, self.scores = folder, run_config.check, checkpoints.scores
        self.config = recipes.load("shapes_uper")
        run_config.write(folder, self.config)
        lines = [{"step": step, "miou": step / 10} for step in range(1, 6)]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.good = {path.name: path.read_bytes() for path in folder.iterdir()}

    def trial(self, rng) -> tuple[str, str]:
        name = sorted(self.good)[rng.integers(0, len(self.good))]
        for each, data in self.good.items():
            (self.folder / each).write_bytes(mutate(data, rng) if each == name else data)
        if name == "config.json":
            return judge(lambda: self.check(self.folder, self.config), str(self.folder), None)
        return judge(lambda: self.scores(self.folder, "val/miou") and None, str(self.folder), None)


class Options:
    """A config in which one option has a value that no option can have, but for a name, which is looked up later."""

    VALUES = (float("nan"), float("-inf"), -7, 1e300, 10**20, {}, ((1,),), b"x", lambda: 0, "junk")
    RECIPES = ("shapes_uper", "camvid_aspp", "ade20k_mask2former", "voc2012_dupsampling", "cityscapes_psp")

    def __init__(self, folder: pathlib.Path):
        from se_jax.config import check, recipes

        self.check = check.check
        self.configs = [recipes.load(name) for name in self.RECIPES]

    def trial(self, rng) -> tuple[str, str]:
        config = self.configs[rng.integers(0, len(self.configs))].copy_and_resolve_references()
        node, name, path = config, "", ""
        while not name or (hasattr(node, "keys") and len(node) and rng.random() < 0.9):
            name = sorted(node.keys())[rng.integers(0, len(node))]
            path, above, node = f"{path}.{name}".lstrip("."), node, node[name]
        value = self.VALUES[rng.integers(0, len(self.VALUES))]
        with config.unlocked(), config.ignore_type():
            above[name] = value
        outcome, said = judge(lambda: self.check(config), path, None)
        if outcome == "unharmed" and not isinstance(value, str):
            outcome, said = "SILENT", f"{path}={value!r}"
        return outcome, said


KINDS = {
    "PNG images": lambda folder: Pictures(folder, "PNG"),
    "PNG masks": lambda folder: Pictures(folder, "mask"),
    "JPEG images": lambda folder: Pictures(folder, "JPEG"),
    "classes.json": ClassFiles,
    "checkpoints": Checkpoints,
    "config.json, history.jsonl": RunFiles,
    "options": Options,
}
