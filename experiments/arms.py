"""The arms of an experiment: named changes of a config, and what they do to the network before its first step.

An arm is a dict of options, e.g. {"model.equalizer.mode": "folded"}. The one that is no option of a config, `control`,
names a function of this file that changes the calibrated start of a head, so that one part of what an equalizer does is
there without the others:

    uniform    no equalizer, but the weights behind each site are as long as folding makes them: their length alone
    rate       the gradients that an explicit equalizer gives its weights, from the start of the plain network: for
               AdamW 1 / std times the rate of each branch's weights, for SGD 1 / std ** 2; and nothing else
    analytic   an explicit equalizer by what theory expects of bilinear upsampling of white noise, without a measurement
    scalar     a learnt factor for every branch, which starts at 1 and has the rate of all parameters
    batch      BatchNorm behind the resize of every branch, in place of measured constants
"""

import ast
import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments import variance
from se_jax.config import options
from se_jax.config.types import ConfigDict
from se_jax.equalizer.fold import CONVOLUTIONS, fold
from se_jax.equalizer.fusion import Fusion, branch_key, ordered_branches, site_variables
from se_jax.models.layers import BatchNorm

MODE = "model.equalizer.mode"
ARMS: dict[str, dict[str, Any]] = {
    "none": {MODE: "none"},
    "explicit": {MODE: "explicit"},
    "folded": {MODE: "folded"},
    "channel": {MODE: "explicit", "model.equalizer.statistics": "channel"},
    "channel_folded": {MODE: "folded", "model.equalizer.statistics": "channel"},
    "uniform": {MODE: "explicit", "control": "uniform"},
    "rate": {MODE: "explicit", "control": "rate"},
    "analytic": {MODE: "explicit", "control": "analytic"},
    "scalar": {MODE: "explicit", "control": "scalar"},
    "batch": {MODE: "explicit", "control": "batch"},
}
SCALARS = "branch_scalars"  # the parameters of the control of that kind


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """'name=key=value,key=value' -> (name, options); values as in Python, text where they are none.

    Raises:
      ValueError: it is not of that form.
    """
    name, _, options = text.partition("=")
    pairs = [pair.partition("=") for pair in options.split(",")]
    if not name or not all(key and equals for key, equals, _ in pairs):
        raise ValueError(f"--arm {text!r}: expected name=option=value,..., e.g. sgd=optimizer.name=sgd")
    return name, {key: _value(value) for key, _, value in pairs}


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def changed(config: ConfigDict, options: dict[str, Any], **more) -> tuple[ConfigDict, str]:
    """(a copy of the config with an arm's options, name of its control or '').

    Raises:
      ValueError: the config has no such option, or there is no such control; names it.
    """
    options = dict(options)
    control = options.pop("control", "")
    if control and control not in CONTROLS:
        raise ValueError(f"an arm has control={control!r}; expected one of {', '.join(CONTROLS)}")
    copied = config.copy_and_resolve_references()
    try:
        copied.update_from_flattened_dict(options | more)
    except (KeyError, TypeError) as error:
        raise ValueError(f"an arm changes what the config does not have: {error}") from error
    return copied, control


# what a result does not depend on, or is told beside it
ASIDE = ("seed", "log", "checkpoint", "mesh", "multihost", "multihost_timeout", "data.dir", "data.cache")


def digest(config: ConfigDict, control: str, epochs: int) -> str:
    """Twelve digits that differ where results may, but for seed and rate; epochs: of kept features, or 0.

    Options that have their defaults are left out, so that new ones of later versions change nothing.
    """
    known = options.get_config()
    for part, make in (("encoder", options.encoder), ("decoder", options.decoder)):
        try:
            known.model[part] = ConfigDict(make(config.model[part].name))
        except KeyError:  # of somebody else
            known.model[part] = ConfigDict()
    defaults = _flat(known)
    kept = {key: value for key, value in _flat(config).items() if key.endswith("name") or defaults.get(key) != value}
    kept = {key: value for key, value in kept.items() if not key.startswith(ASIDE)}
    kept.pop("optimizer.learning_rate", None)
    text = json.dumps([kept, control, epochs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _flat(config: ConfigDict) -> dict[str, Any]:
    return traverse_util.flatten_dict(json.loads(config.to_json()), sep=".")


class Start(NamedTuple):
    """How a head starts.

    Attributes:
      mode: of the equalizers of the network that is trained.
      variables: of it, {'params', 'batch_stats', ...}.
      view: parameters -> those that the network is applied with.
      around: whether it trains -> the context in which it is applied.
    """

    mode: str
    variables: dict
    view: Callable[[Any], Any] = lambda params: params
    around: Callable[[bool], contextlib.AbstractContextManager] = lambda train: contextlib.nullcontext()


def start(mode: str, control: str, plain: dict, calibrated: dict, shrinkage: dict) -> Start:
    """The start of an arm's head.

    Args:
      mode: the arm's 'none', 'explicit' or 'folded'. control: its control or ''.
      plain: variables of the plain network. calibrated: the same with 'equalizer', the measured statistics.
      shrinkage: {path of a site: {branch key: (map, fused map)}}, the sizes that the resize goes between.
    """
    if control:
        return CONTROLS[control](plain, calibrated, shrinkage)
    return Start(
        mode, {"none": lambda: plain, "explicit": lambda: calibrated, "folded": lambda: fold(calibrated)}[mode]()
    )


def kernel(params, path: tuple[str, ...]) -> tuple[str, ...]:
    """Path of the kernel of the convolution that takes what the site at `path` fuses.

    Raises:
      ValueError: none does, as behind a sum.
    """
    flat = traverse_util.flatten_dict(params)
    for convolution in CONVOLUTIONS:
        if (found := (*path[:-1], *convolution, "kernel")) in flat:
            return found
    raise ValueError(f"no convolution follows the fusion site {'/'.join(path)}, so it has no block of weights a branch")


def blocks(kernel, widths) -> list:
    """The block of each branch of a kernel [kh, kw, in, out], or of a depthwise one [kh, kw, 1, in]; 0 wide ones too.

    widths: channels of the branches.
    """
    axis = 3 if kernel.shape[2] == 1 and kernel.shape[3] == sum(widths) else 2
    return jnp.split(kernel, np.cumsum(widths)[:-1], axis=axis)


def scaled(kernel, widths, factors):
    """The kernel with the block of each branch times its factor, a number or one for each channel."""
    axis = 3 if kernel.shape[2] == 1 and kernel.shape[3] == sum(widths) else 2
    line = jnp.concatenate([jnp.broadcast_to(f, (w,)) for f, w in zip(factors, widths, strict=True)])
    return kernel * line.reshape([-1 if a == axis else 1 for a in range(4)])


def _sites(calibrated):
    """(path, kernel's path, widths, [statistics]) of every equalized site."""
    for path, site in site_variables(calibrated["equalizer"]):
        statistics = [branch for _, branch in ordered_branches(site)]
        widths = [branch["std"].size for branch in statistics]
        yield path, kernel(calibrated["params"], path), widths, statistics


def _with(variables: dict, kernels_: dict) -> dict:
    flat = traverse_util.flatten_dict(variables["params"]) | kernels_
    return variables | {"params": traverse_util.unflatten_dict(flat)}


def _uniform(plain, calibrated, shrinkage) -> Start:
    flat, new = traverse_util.flatten_dict(plain["params"]), {}
    folded = traverse_util.flatten_dict(fold(calibrated)["params"])
    for _, key, _, _ in _sites(calibrated):
        new[key] = flat[key] * (jnp.linalg.norm(folded[key].ravel()) / jnp.linalg.norm(flat[key].ravel()))
    return Start("none", _with(plain, new))


def _rate(plain, calibrated, shrinkage) -> Start:
    flat, new = traverse_util.flatten_dict(plain["params"]), {}
    for _, key, widths, statistics in _sites(calibrated):
        new[key] = scaled(flat[key], widths, [branch["std"] for branch in statistics])
    return Start("explicit", _with(_with_statistics(calibrated, lambda path, key, std: std), new))


def _analytic(plain, calibrated, shrinkage) -> Start:
    def expected(path, key, std):
        source, target = shrinkage[path][key]
        return jnp.full_like(std, variance.NORMALIZED_STD * variance.expected_ratio(source, target) ** 0.5)

    return Start("explicit", _with_statistics(calibrated, expected))


def _with_statistics(calibrated, std) -> dict:
    """The same with statistics of mean 0 and std(path, branch key, measured std)."""
    flat = {}
    for path, site in site_variables(calibrated["equalizer"]):
        for key, branch in site.items():
            flat[(*path, key, "mean")] = jnp.zeros_like(branch["mean"])
            flat[(*path, key, "std")] = std(path, key, branch["std"])
    return calibrated | {"equalizer": traverse_util.unflatten_dict(flat)}


def _scalar(plain, calibrated, shrinkage) -> Start:
    found = [(key, widths) for _, key, widths, _ in _sites(calibrated)]
    params = plain["params"] | {SCALARS: {"/".join(key): jnp.ones(len(widths)) for key, widths in found}}

    def view(params):
        flat = traverse_util.flatten_dict({name: tree for name, tree in params.items() if name != SCALARS})
        for key, widths in found:
            flat[key] = scaled(flat[key], widths, list(params[SCALARS]["/".join(key)]))
        return traverse_util.unflatten_dict(flat)

    return Start("none", plain | {"params": params}, view)


def _batch(plain, calibrated, shrinkage) -> Start:
    params, statistics = (traverse_util.flatten_dict(plain[name]) for name in ("params", "batch_stats"))
    sites = dict(site_variables(calibrated["equalizer"]))
    for path, site in sites.items():
        for key, branch in site.items():
            shape = branch["std"].shape
            params |= {
                (*path, f"{key}_norm", "scale"): jnp.ones(shape),
                (*path, f"{key}_norm", "bias"): jnp.zeros(shape),
            }
            statistics |= {
                (*path, f"{key}_norm", "mean"): jnp.zeros(shape),
                (*path, f"{key}_norm", "var"): jnp.ones(shape),
            }

    def around(train: bool):
        def normalize(following, args, kwargs, context):
            fusion = context.module
            if not (isinstance(fusion, Fusion) and context.method_name == "__call__" and fusion.path in sites):
                return following(*args, **kwargs)
            branches, size = args[0], kwargs.get("size", args[1] if len(args) > 1 else None)
            norms = [BatchNorm(name=f"{branch_key(i, name)}_norm", parent=fusion) for i, name in enumerate(branches)]
            resized = {
                name: norm(fusion.to_grid(x, size), train)
                for norm, (name, x) in zip(norms, branches.items(), strict=True)
            }
            return following(resized, size)

        return nn.intercept_methods(normalize)

    variables = {"params": params, "batch_stats": statistics}
    found = {name: traverse_util.unflatten_dict(flat) for name, flat in variables.items()}
    return Start("none", plain | found, around=around)


CONTROLS = {"uniform": _uniform, "rate": _rate, "analytic": _analytic, "scalar": _scalar, "batch": _batch}
