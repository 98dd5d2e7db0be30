"""Applies the tables: a torch state dict, as numpy arrays by name, to the variables of a network, checked both ways."""

import re

import numpy as np

from se_jax.importers import heads, resnet

RULES = (*resnet.RULES, *heads.RULES)
PREFIXES = {"backbone.": "encoder/", "decode_head.": "decoder/", "auxiliary_head.": "auxiliary/"}
# Tensors without a counterpart: BatchNorm's step counter (our momentum is fixed), an ImageNet classifier.
SKIPPED = re.compile(r"(.*\.)?num_batches_tracked|(backbone\.)?fc\.(weight|bias)")


def import_segmentor(state_dict: dict[str, np.ndarray], variables: dict) -> dict:
    """Fills a network's variables with a PyTorch checkpoint's tensors.

    Names are those of mmsegmentation: `backbone.`, `decode_head.` and `auxiliary_head.` in front for a whole segmentor,
    none for the variables of an encoder or of a head alone.

    Args:
      state_dict: torch's tensors as numpy arrays, by name.
      variables: the network's own variables, {'params', 'batch_stats', ...}, nested; arrays or ShapeDtypeStructs.

    Returns:
      New variables of the same structure. Collections that checkpoints do not hold ('equalizer') are passed on.

    Raises:
      ValueError: naming every tensor that fits nowhere, every shape that differs, every variable without a tensor.
    """
    wanted = {key: leaf for key, leaf in _flatten(variables).items() if key[0] in ("params", "batch_stats")}
    # where a head fuses branches, its convolution sits one level deeper, as `block` of the fusion; torch's does not
    places = {tuple(part for part in key if part != "block"): key for key in wanted}
    filled, sources, problems = {}, {}, []
    for name, tensor in state_dict.items():
        if SKIPPED.fullmatch(name):
            continue
        key, value = _target(name, np.asarray(tensor), places)
        if key is None:
            problems.append(f"tensor {name} {np.shape(tensor)} has no place in this network")
        elif key in filled:
            problems.append(f"tensors {sources[key]} and {name} both belong to {'/'.join(key)}")
        elif value.shape != tuple(wanted[key].shape):
            problems.append(f"tensor {name} is {value.shape} in our layout, {'/'.join(key)} is {wanted[key].shape}")
            filled[key] = value
        else:
            filled[key], sources[key] = value.astype(wanted[key].dtype), name
    problems += [f"no tensor for {'/'.join(key)} {wanted[key].shape}" for key in wanted if key not in filled]
    if problems:
        raise ValueError(
            f"The checkpoint does not fit the network ({len(problems)} differences; check depth, variant, width, head "
            "and number of classes):\n  " + "\n  ".join(problems)
        )
    return _unflatten(_flatten(variables) | filled)


def _target(name: str, tensor: np.ndarray, places: dict):
    """The key of the variable that a tensor belongs to and its value in our layout, or (None, None)."""
    scope = ""
    for prefix, ours in PREFIXES.items():
        if name.startswith(prefix):
            name, scope = name.removeprefix(prefix), ours
    module, _, leaf_name = name.rpartition(".")
    for rule in RULES:
        match, leaf = re.fullmatch(rule.pattern, module), rule.layout.get(leaf_name)
        if match is None or leaf is None or leaf.rank != tensor.ndim:
            continue
        key = places.get((leaf.collection, *(scope + match.expand(rule.path)).split("/"), leaf.name))
        if key is not None:
            return key, leaf.turn(tensor)
    return None, None


def _flatten(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    flat = {}
    for name, value in tree.items():
        flat |= _flatten(value, (*path, name)) if isinstance(value, dict) else {(*path, name): value}
    return flat


def _unflatten(flat: dict) -> dict:
    tree = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree
