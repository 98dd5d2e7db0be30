"""Applies the tables: tensors of a PyTorch checkpoint <-> variables of a network, checked both ways."""

import re
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from se_jax.checkpoints import TRAINED
from se_jax.config.normalization import Normalization
from se_jax.importers import adapt, files, tables
from se_jax.importers.rules import Leaf, Table
from se_jax.models import Segmenter

# our part of a whole network -> mmsegmentation's prefix
PREFIXES = {"encoder": "backbone.", "decoder": "decode_head.", "auxiliary": "auxiliary_head."}
_TRANSFORMERS = {"encoder": "model.pixel_level_module.encoder.", "decoder": ""}
OTHER_PREFIXES = {
    "detectron2": {"encoder": "backbone.", "decoder": "sem_seg_head."},
    "smp": {"encoder": "encoder.", "decoder": ""},
    "transformers": _TRANSFORMERS,
    "transformers_modules": _TRANSFORMERS,
    "eomt": {"encoder": "encoder.backbone.", "decoder": ""},
    "eomt_transformers": {"encoder": "", "decoder": ""},
}
HEADS = (
    PREFIXES["decoder"],
    "sem_seg_head.",
    "class_predictor.",
    "segmentation_head.",
    "class_head.",
)  # how names begin that only whole networks have
# Tensors of any checkpoint that have no counterpart.
SKIPPED = {
    r"(.*\.)?num_batches_tracked": "BatchNorm's step counter; our momentum is fixed",
    r"head\..*": "ImageNet classifier",  # of mmpretrain's checkpoints, beside `backbone.`
    r"criterion\.empty_weight": "the weight of no object in the loss",
    r"pixel_(mean|std)": "normalisation of the images",
}


class Imported(NamedTuple):
    """What became of a checkpoint.

    Attributes:
      variables: of the network, filled.
      layout: whose names the checkpoint has.
      used: how many of its tensors went in.
      skipped: its other tensors -> why they did not.
      kept: our variables, as paths, that had no tensor and keep their initial values.
      adapted: our variables whose tensor had another size -> what was done to it.
      normalization: of the images that the checkpoint's encoder expects; see `normalization`.
    """

    variables: dict
    layout: str
    used: int
    skipped: dict[str, str]
    kept: tuple[str, ...]
    adapted: dict[str, str]
    normalization: Normalization | None


class Place(NamedTuple):
    """Where one of our arrays is found in a checkpoint."""

    tensors: tuple[str, ...]
    leaf: Leaf
    optional: bool
    stem: bool


def import_weights(model, state_dict: dict[str, np.ndarray], variables: dict, layout: str = "auto", **options) -> dict:
    """The variables of a network filled with a PyTorch checkpoint's tensors; see `match`, which says what was done."""
    return match(model, state_dict, variables, layout, **options).variables


def load(path, model, variables: dict, layout: str = "auto", **options) -> Imported:
    """Fits a checkpoint file into a network; see `files.read` and `match`, also for the errors."""
    try:
        return match(model, files.read(path), variables, layout, **options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def match(
    model,
    state_dict: dict[str, np.ndarray],
    variables: dict,
    layout: str = "auto",
    *,
    skip=lambda array: False,
    bgr: bool = False,
) -> Imported:
    """Fits a PyTorch checkpoint into a network.

    Args:
      model: a Segmenter, an encoder or a head. A Segmenter takes whole checkpoints, with the layout's prefixes in front
        of the names (mmsegmentation's are `backbone.`, `decode_head.` and `auxiliary_head.`), and checkpoints of an
        encoder alone; its heads then keep their initial values.
      state_dict: torch's tensors as numpy arrays, by name.
      variables: the model's own, {'params', 'batch_stats', ...}, nested; arrays, or ShapeDtypeStructs where nothing is
        to keep its initial value. Collections that checkpoints do not hold ('equalizer') are passed on.
      layout: whose names: 'mmseg', 'timm', 'torchvision', 'official' (the authors' own repository), 'detectron2',
        'transformers' (files) or 'transformers_modules' (release 5 in memory), or 'auto', which takes the one that
        finds most tensors.
      skip: says of an array, by a path such as 'decoder/conv_seg/kernel', whether it keeps its initial value; see
        `se_jax.importers.skip.Skip`.
      bgr: the checkpoint's network saw blue, green, red; its first kernel is turned round.

    Raises:
      ValueError: naming every tensor that fits nowhere, every shape that differs, every variable without a tensor; or
        for a layout that the network does not have.
    """
    state_dict = _unwrapped(state_dict)
    layout, parts, places = _choose_layout(model, state_dict, variables, layout)
    state_dict = _read(parts, layout, state_dict)
    wanted = {key: leaf for key, leaf in _flat(variables).items() if key[0] in _collections(model)}
    skipped = _skipped(parts, layout, state_dict)
    filled, kept, adapted, problems = {}, [], {}, []
    for key, initial in wanted.items():
        place = places.get(key)
        path = "/".join(key)
        if place is None and len(key) > 1 and key[1] in PREFIXES and not parts.keys() & {key[1], ""}:
            kept.append(path)  # a head beside an encoder's checkpoint
        elif place is None:
            problems.append(f"no rule of layout {layout} knows {path} {tuple(initial.shape)}")
        elif skip("/".join(key[1:])):
            kept.append(path)
            skipped |= {name: "left out, as asked" for name in place.tensors if name in state_dict}
        elif missing := [name for name in place.tensors if name not in state_dict]:
            if place.optional and len(missing) == len(place.tensors):
                kept.append(path)
            else:
                problems.append(f"no tensor {', '.join(missing)} for {path} {tuple(initial.shape)}")
        else:
            tensors = [np.asarray(state_dict[name]) for name in place.tensors]
            try:
                tensors, note = adapt.to_network(tensors, place.leaf, initial.shape, stem=place.stem, bgr=bgr)
            except ValueError as error:
                problems.append(f"tensor {place.tensors[0]} {tensors[0].shape} does not fit: {error}")
                skipped |= dict.fromkeys(place.tensors, "told of already")
                continue
            if note:
                adapted[path] = note
            problems += _shape_problems(place, tensors, initial.shape)
            filled[key] = (place, tensors)
    used = {name for place, _ in filled.values() for name in place.tensors}
    for name in state_dict:
        if name not in used and name not in skipped:
            problems.append(f"tensor {name} {np.shape(state_dict[name])} has no place in this network")
    without_value = [path for path in kept if isinstance(_get(variables, path), jax.ShapeDtypeStruct)]
    problems += [f"no tensor for {path}, and no initial value was given" for path in without_value]
    if problems:
        raise ValueError(_message(problems, layout, model, parts))
    values = {
        key: np.ascontiguousarray(place.leaf.to_ours(*tensors).astype(wanted[key].dtype))
        for key, (place, tensors) in filled.items()
    }
    new = traverse_util.unflatten_dict(_flat(variables) | values)
    expected = _normalization(parts, layout, state_dict, bgr)
    return Imported(new, layout, len(used), skipped, tuple(kept), adapted, expected)


def normalization(model, state_dict: dict[str, np.ndarray], variables: dict, *, bgr: bool = False):
    """((mean of red, green, blue), (std)) of the images that a checkpoint's encoder expects; None of a head alone.

    The checkpoint says so itself, by tensors `pixel_mean` and `pixel_std`, or its layout's table does. Arguments as of
    `match`.
    """
    state_dict = _unwrapped(state_dict)
    layout, parts, _ = _choose_layout(model, state_dict, variables, "auto")
    return _normalization(parts, layout, state_dict, bgr)


def _normalization(parts: dict, layout: str, state_dict: dict, bgr: bool) -> Normalization | None:
    if all(name in state_dict for name in files.PIXELS):
        mean, std = (np.ravel(state_dict[name]).tolist() for name in files.PIXELS)
        return (tuple(mean[::-1]), tuple(std[::-1])) if bgr else (tuple(mean), tuple(std))
    encoder = parts.get("encoder") or parts.get("")
    if encoder is None or isinstance(encoder[1], tables.HEADS):
        return None
    return _table(encoder[1], layout).normalization


def export_weights(model, variables: dict, layout: str = "mmseg") -> dict[str, np.ndarray]:
    """The inverse: the tensors of a network under the names of a layout, in torch's axis order.

    Step counters and derived buffers, which hold nothing trained, are left out.

    Raises:
      ValueError: the layout does not know a variable, such as the statistics of explicit equalizers: they are folded
        first, and their border term is then written as a tensor `tap_bias` [out, kh, kw] of its convolution.
    """
    tensors, parts = {}, _parts(model, None, layout)
    places = _places(parts, layout, variables)
    for key, array in _flat(variables).items():
        if key not in places:
            raise ValueError(
                f"layout {layout} has no tensor for {'/'.join(key)} {np.shape(array)}; fold scale equalizers first "
                "(se_jax.fold)"
                if key[0] == "equalizer"
                else f"layout {layout} has no tensor for {'/'.join(key)} {np.shape(array)}"
            )
        place = places[key]
        for name, tensor in zip(place.tensors, place.leaf.to_theirs(np.asarray(array)), strict=True):
            tensors[name] = np.ascontiguousarray(tensor)
    return _changed(tensors, [(prefix, _table(module, layout).write) for prefix, module in parts.values()])


def _flat(variables: dict) -> dict[tuple[str, ...], Any]:
    """{path: array} of nested variables."""
    return dict(traverse_util.flatten_dict(variables))


def _collections(model) -> tuple[str, ...]:
    """What a checkpoint can hold of a network; the statistics of equalizers it cannot."""
    return (*TRAINED, *getattr(model, "constants", ()))


def holds_heads(state_dict) -> bool:
    """Whether a checkpoint is of a whole network rather than of an encoder alone."""
    return any(name.startswith(HEADS) for name in _unwrapped(state_dict))


def _unwrapped(state_dict: dict) -> dict:
    """The tensors without the name that the authors' trainer of EoMT has for its network."""
    return {name.removeprefix("network."): tensor for name, tensor in state_dict.items()}


def _parts(model, state_dict, layout: str) -> dict[str, tuple[str, Any]]:
    """Our scope -> (the prefix of its tensors' names, module), of those parts that the checkpoint is about."""
    if not isinstance(model, Segmenter):
        return {"": (_encoder_prefix(state_dict), model)}
    if state_dict is not None and not holds_heads(state_dict):
        return {"encoder": (_encoder_prefix(state_dict), model.encoder)}
    prefixes = OTHER_PREFIXES.get(layout, {})
    if layout not in tables.tables_of(model.decoder):
        prefixes = {}  # the head has mmsegmentation's names whatever those of the encoder
    parts = {"encoder": model.encoder, "decoder": model.decoder}
    if model.auxiliary is not None:
        parts["auxiliary"] = model.auxiliary
    return {scope: (prefixes.get(scope, PREFIXES[scope]), module) for scope, module in parts.items()}


def _encoder_prefix(state_dict) -> str:
    prefix = PREFIXES["encoder"]
    return prefix if any(name.startswith(prefix) for name in state_dict or ()) else ""


def _choose_layout(model, state_dict: dict, variables: dict, layout: str) -> tuple[str, dict, dict]:
    """The layout's name, its parts and places; for 'auto' of the layout of which most tensors are in the checkpoint."""
    first = model.encoder if isinstance(model, Segmenter) else model
    candidates = list(tables.tables_of(first)) if layout == "auto" else [layout]
    parts = {name: _parts(model, state_dict, name) for name in candidates}
    found = {name: _places(parts[name], name, variables) for name in candidates}

    def hits(name: str) -> int:
        return sum(tensor in state_dict for place in found[name].values() for tensor in place.tensors)

    best = max(candidates, key=hits)
    return best, parts[best], found[best]


def _read(parts: dict, layout: str, state_dict: dict) -> dict:
    """The checkpoint with the names of today in the place of older ones, and its tensors as the rules expect them."""
    made = [(prefix, _table(module, layout)) for prefix, module in parts.values()]
    for pattern, today in {pattern: name for _, table in made for pattern, name in table.older.items()}.items():
        state_dict = {re.sub(f"^{pattern}$", today, name): tensor for name, tensor in state_dict.items()}
    return _changed(state_dict, [(prefix, table.read) for prefix, table in made])


def _changed(tensors: dict, changes: list) -> dict:
    """Tensors after the changes [(prefix, function)], each of those whose names begin so, which it sees without it."""
    for prefix, change in changes:
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        tensors = tensors | {prefix + name: tensor for name, tensor in change(own).items()}
    return tensors


def _places(parts: dict, layout: str, variables: dict) -> dict[tuple[str, ...], Place]:
    """Key of each of our variables -> where a checkpoint of that layout has it."""
    made = {scope: (prefix, _table(module, layout)) for scope, (prefix, module) in parts.items()}
    places = {}
    for key in _flat(variables):
        scope = key[1] if key[1] in made else ""
        if scope not in made:
            continue
        prefix, table = made[scope]
        # where a head fuses branches, its convolution sits one level deeper, as `block` of the fusion; torch's does not
        module = "/".join(part for part in key[2 if scope else 1 : -1] if part != "block")
        if (place := _place(table, module, key[0], key[-1], prefix)) is not None:
            places[key] = place
    return places


def _table(module, layout: str) -> Table:
    known = tables.tables_of(module)
    if isinstance(module, tables.HEADS) and layout not in known:
        layout = next(iter(known))  # mmseg, which has most heads
    if layout not in known:
        raise ValueError(f"layout is {layout!r}; {type(module).__name__} has {', '.join(known)}")
    return known[layout]


def _place(table: Table, module: str, collection: str, name: str, prefix: str) -> Place | None:
    for rule in table.rules:
        leaf = next((leaf for leaf in rule.leaves if (leaf.collection, leaf.name) == (collection, name)), None)
        theirs = rule.module_of(module)
        if leaf is not None and theirs is not None:
            scope = prefix + theirs + "." if theirs else prefix
            optional = any(re.fullmatch(pattern, module) for pattern in table.optional)
            stem = bool(table.stem) and module == table.stem and name == "kernel"
            return Place(tuple(scope + tensor for tensor in leaf.tensors), leaf, optional, stem)
    return None


def _skipped(parts: dict, layout: str, state_dict: dict) -> dict[str, str]:
    """Tensors that have no counterpart on purpose -> why."""
    reasons = dict(SKIPPED)
    for prefix, module in parts.values():
        table = _table(module, layout)
        reasons |= {f"(?:{re.escape(prefix)})(?:{pattern})": reason for pattern, reason in table.skipped.items()}
    if "decoder" in parts and "auxiliary" not in parts:
        reasons[re.escape(PREFIXES["auxiliary"]) + ".*"] = "this network has no auxiliary head"
    if parts.keys() == {""} and parts[""][0]:
        heads = "|".join(re.escape(PREFIXES[scope]) for scope in ("decoder", "auxiliary"))
        reasons[f"({heads}).*"] = "only the encoder is filled"
    skipped = {}
    for name in state_dict:
        reason = next((reason for pattern, reason in reasons.items() if re.fullmatch(pattern, name)), None)
        if reason:
            skipped[name] = reason
    return skipped


def _shape_problems(place: Place, tensors: list, shape: tuple[int, ...]) -> list[str]:
    expected = [t.shape for t in place.leaf.to_theirs(np.broadcast_to(np.float32(0), shape))]
    return [
        f"tensor {name} is {tensor.shape} in the checkpoint, {wanted} in this network"
        for name, tensor, wanted in zip(place.tensors, tensors, expected, strict=True)
        if tensor.shape != wanted
    ]


def _message(problems: list[str], layout: str, model, parts: dict) -> str:
    heads = (getattr(model, "decoder", None), getattr(model, "auxiliary", None))
    names = {name.rpartition("/")[2] for head in heads for name in getattr(head, "classifier", ())}
    classifier = any(f".{name}." in problem and "in this network" in problem for problem in problems for name in names)
    hint = "; --config.init_skip=classifier keeps the initial classifiers, for other classes" if classifier else ""
    for _, module in parts.values():
        for pattern, advice in _table(module, layout).hints.items():
            hint += f"; {advice}" if any(re.search(pattern, problem) for problem in problems) else ""
    shown = problems if len(problems) <= 40 else [*problems[:40], f"and {len(problems) - 40} more"]
    return (
        f"The checkpoint, read as layout {layout}, does not fit the network ({len(problems)} differences; check "
        f"variant, width, head and number of classes{hint}):\n  " + "\n  ".join(shown)
    )


def _get(variables: dict, path: str):
    for part in path.split("/"):
        variables = variables[part]
    return variables
