"""Whether a config can be: every option against its range in `se_jax.config.ranges`, before anything is built."""

import difflib
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from se_jax.config import kinds, options, ranges
from se_jax.config.types import ConfigDict

# sections with a part of somebody else's may hold options of its own
OPEN = ("data", "loss")


def check(config, section: str = "") -> None:
    """Raises ValueError for the first option that cannot be, with its value, its range and what to do.

    Args:
      config: a whole config; or the part of one, which may lack options, that stands at `section`, e.g. 'model'.
    """
    if not isinstance(config, (ConfigDict, Mapping)):
        raise ValueError(
            f"{section or 'config'} is {config!r}; expected options, as se_jax.config.options.get_config() has them"
        )
    found = dict(_flat(config, section))
    for option, value in found.items():
        if option in ranges.OPTIONS:
            _check(option, value, ranges.OPTIONS[option])
        elif any(known.startswith(f"{option}.") for known in ranges.OPTIONS):
            raise ValueError(
                f"{option} is {_short(value)}; expected the options {option}.*, as in se_jax.config.options"
            )
        elif not _is_open(option, found):
            raise ValueError(unknown(option, ranges.OPTIONS.keys() | {f"model.{part}" for part in ranges.PARTS}))
    for name in ranges.PARTS:
        model: Any = config if section == "model" else config.get("model") if not section else None
        if model is not None and name in model:
            _check_part(f"model.{name}", model[name], ranges.PARTS[name], ranges.OWN[name])
    if section:
        return
    _check_losses(config.get("losses", {}))
    for option in (*ranges.OPTIONS, *(f"model.{name}" for name in ranges.PARTS)):
        if option not in found and not _holds(config, option):
            raise ValueError(f"{option} is missing; the config needs it. {_advice(option)}")
    _check_together(config)


def check_types(option: str, constructor, given: Mapping[str, Any]) -> None:
    """Raises ValueError where a field of a part's class is given a value of another type than its own.

    All that is known of the fields of somebody else's part; those of the library's have ranges.
    """
    try:
        types = typing.get_type_hints(constructor)
    except (NameError, TypeError):  # names that exist for type checkers only
        return
    for field, value in given.items():
        _check(f"{option}.{field}", value, kinds.of_type(types.get(field)))


def unknown(option: str, known) -> str:
    """What to say of an option that there is not: those that are nearest in name."""
    known, last = sorted(known), option.rpartition(".")[2]
    named = {each.rpartition(".")[2]: each for each in reversed(known)}
    near = difflib.get_close_matches(option, known, n=1) or [
        named[name] for name in difflib.get_close_matches(last, named, n=1)
    ]
    return f"the config has no option {option}" + (f"; did you mean {near[0]}?" if near else "; leave it out")


def names(config, above: str = "") -> Iterator[str]:
    """The dotted names of all options of a config."""
    for key, value in config.items():
        if hasattr(value, "keys"):
            yield from names(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _flat(config, section: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every option but those of the parts of the network, which are their own."""
    for key, value in config.items():
        option = f"{section}.{key}" if section else str(key)
        if option.startswith("model.") and key in ranges.PARTS and section == "model":
            continue
        if option == "losses":
            continue
        if isinstance(value, (ConfigDict, Mapping)) and option not in ranges.OPTIONS:
            yield from _flat(value, option)
        else:
            yield option, value


def _is_open(option: str, found: dict) -> bool:
    section = option.partition(".")[0]
    return section in OPEN and ":" in str(found.get(f"{section}.name"))


def _holds(config, option: str) -> bool:
    node = config
    for key in option.split("."):
        if not isinstance(node, (ConfigDict, Mapping)) or key not in node:
            return False
        node = node[key]
    return True


def _check(option: str, value, allowed: kinds.Range, default=None) -> None:
    if not allowed.holds(value):
        raise ValueError(f"{option} is {_short(value)}; expected {allowed.expected}. {_advice(option, default)}")


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _advice(option: str, default=None) -> str:
    if default is None and _holds(options.get_config(), option):
        default = functools.reduce(lambda node, key: node[key], option.split("."), options.get_config())
    if default is None or isinstance(default, ConfigDict):
        return f"Give --config.{option} such a value, or leave it out"
    return f"Give --config.{option} such a value; the default is {default!r}"


def _check_part(option: str, config, known: dict, own: dict) -> None:
    """Checks config.model.encoder, decoder or auxiliary: a name, and the fields of the class that it names."""
    if config is None and option == "model.auxiliary":
        return
    if not isinstance(config, (ConfigDict, Mapping)):
        raise ValueError(f"{option} is {_short(config)}; expected a name and options, as in se_jax/config/options.py")
    fallback = "fcn" if option == "model.auxiliary" else None
    name: Any = config.get("name", fallback)
    _check(f"{option}.name", name, kinds.part(*known))
    fields = known.get(name, own)
    for field, value in config.items():
        if field in fields:
            _check(f"{option}.{field}", value, fields[field], _default(option, name, field))
        elif field != "name" and name in known:
            raise ValueError(unknown(f"{option}.{field}", [f"{option}.{each}" for each in fields]))


def _check_losses(losses) -> None:
    """Checks config.losses: a weight or options by name; a loss of somebody else's knows its options itself."""
    if not isinstance(losses, (ConfigDict, Mapping)):
        raise ValueError(
            f"losses is {_short(losses)}; expected weights or options by name. Give --config.losses="
            "\"{'cross_entropy': 1.0, 'dice': 0.5}\", or leave it out"
        )
    for name, given in losses.items():
        option = f"losses.{name}"
        if not isinstance(given, (ConfigDict, Mapping)):
            given = {"weight": given}
        kind: Any = given.get("name", name)
        _check(f"{option}.name" if "name" in given else option, kind, kinds.part(*ranges.LOSSES))
        fields = ranges.LOSSES.get(kind, {"weight": kinds.FACTOR})
        for field, value in given.items():
            if field in fields:
                _check(f"{option}.{field}", value, fields[field])
            elif field != "name" and kind in ranges.LOSSES:
                raise ValueError(unknown(f"{option}.{field}", [f"{option}.{each}" for each in fields]))


def _default(option: str, name: str, field: str):
    if option == "model.auxiliary":
        return options.model()["auxiliary"].get(field)
    make = options.encoder if option == "model.encoder" else options.decoder
    return ConfigDict(make(name)).get(field) if ":" not in name else None


def _check_together(config) -> None:
    """What two options say of each other."""
    rates = config.optimizer
    if rates.warmup_steps >= config.num_steps and rates.warmup_steps:
        raise ValueError(
            f"optimizer.warmup_steps is {rates.warmup_steps}; expected fewer than num_steps, which is "
            f"{config.num_steps}. Give --config.optimizer.warmup_steps=0, or more steps"
        )
    if rates.min_learning_rate > rates.learning_rate:
        raise ValueError(
            f"optimizer.min_learning_rate is {rates.min_learning_rate}; expected at most optimizer.learning_rate, "
            f"which is {rates.learning_rate}: the rate would grow. Give --config.optimizer.min_learning_rate=0"
        )
    if rates.schedule == "step" and not rates.milestones:
        raise ValueError(
            "optimizer.schedule is 'step' without optimizer.milestones; expected the steps at which the rate falls. "
            f'Give --config.optimizer.milestones="({max(config.num_steps * 2 // 3, 1)},)"'
        )
    if rates.schedule == "one_cycle" and (rates.warmup_steps or rates.min_learning_rate):
        raise ValueError(
            f"optimizer.schedule is 'one_cycle', which warms up and ends by itself, with warmup_steps="
            f"{rates.warmup_steps} and min_learning_rate={rates.min_learning_rate}; expected 0 of both. Give "
            "--config.optimizer.warmup_steps=0 --config.optimizer.min_learning_rate=0"
        )
    if config.data.cutmix + config.data.classmix > 1:
        raise ValueError(
            f"data.classmix is {config.data.classmix}; expected at most {1 - config.data.cutmix:g}, as data.cutmix is "
            f"{config.data.cutmix}: a crop has one of both. Give --config.data.classmix={1 - config.data.cutmix:g}"
        )
    low, high = config.data.ratio_range
    if low > high:
        raise ValueError(
            f"data.ratio_range is {config.data.ratio_range}; expected (low, high) with low <= high. Give "
            f'--config.data.ratio_range="({high}, {low})"'
        )
    _check_channels(config)
    if config.data.batch_size % config.accumulate:
        unit = config.accumulate
        raise ValueError(
            f"data.batch_size is {config.data.batch_size}; expected a multiple of accumulate, which is {unit}. Give "
            f"--config.data.batch_size={-(-config.data.batch_size // unit) * unit}"
        )
    _check_weights(config)
    if config.init_skip and not config.init_from:
        raise ValueError(
            f"init_skip is {config.init_skip!r}; expected '' where init_from is empty: there is nothing to leave out. "
            "Give --config.init_from too, or leave --config.init_skip out"
        )
    _check_indices(config.model)


def _check_channels(config) -> None:
    data, channels, given = config.data, config.data.channels, config.model.normalization
    if channels != 3 and data.name == "shapes":
        raise ValueError(
            f"data.channels is {channels}; expected 3 with data.name=shapes, whose pictures are RGB. Leave it out, or "
            "give another --config.data.name"
        )
    if channels == 4 and data.photometric:
        raise ValueError(
            "data.photometric is True with data.channels=4; expected False, as hue and saturation are of RGB. Give "
            "--config.data.photometric=False"
        )
    if channels != 3 and data.grey:
        raise ValueError(
            f"data.grey is {data.grey} with data.channels={channels}; expected 0, as it is of RGB. Give "
            "--config.data.grey=0"
        )
    if given and len(given[0]) != channels:
        raise ValueError(
            f"model.normalization is {_short(given)}, of {len(given[0])} channels; expected as many as data.channels, "
            f"which is {channels}. Give --config.model.normalization that many means and stds, or leave it out"
        )


def _check_weights(config) -> None:
    weights, classes = config.loss.class_weights, config.model.num_classes
    if weights and len(weights) != classes:
        raise ValueError(
            f"loss.class_weights has {len(weights)} values; expected one for each of the {classes} classes "
            "(model.num_classes), or () for none"
        )
    if weights and not any(weights):
        raise ValueError(
            f"loss.class_weights is {_short(weights)}; expected a weight above 0 for one class at least: nothing would "
            "be learnt. Give --config.loss.class_weights='()' for none"
        )
    if config.loss.ohem.min_kept * config.data.batch_size > kinds.MOST:
        raise ValueError(
            f"loss.ohem.min_kept is {config.loss.ohem.min_kept}; expected at most {kinds.MOST:,} over the whole batch "
            f"of data.batch_size={config.data.batch_size} images. Give fewer pixels an image"
        )


def _check_indices(model) -> None:
    """Heads name maps that the encoder has."""
    name = model.encoder.get("name")
    if name not in ranges.ENCODERS:
        return
    outputs = model.encoder.get("outputs")
    maps = len(outputs) if outputs else kinds.STAGES
    if name == "vit":
        maps = kinds.STAGES if model.encoder.get("pyramid") else len(outputs or (0,))
    for part in ("decoder", "auxiliary"):
        for field in ("in_index", "c1_index", "low_level") if model[part] else ():
            value = model[part].get(field)
            last = max(value, default=0) if isinstance(value, (tuple, list)) else value or 0
            if last >= maps:
                raise ValueError(
                    f"model.{part}.{field} is {value}; expected an index of one of the encoder's {maps} maps, 0 to "
                    f"{maps - 1}. Give --config.model.{part}.{field} such a value, or more of model.encoder.outputs"
                )
