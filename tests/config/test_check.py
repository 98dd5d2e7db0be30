"""Options that cannot be: as typed on the command line, in recipes, in stored configs, and from Python."""

import dataclasses
import json
import math

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

import data_pipelines
from se_jax import cli
from se_jax.config import options, ranges, recipes, stored
from se_jax.config.check import check
from se_jax.models import build
from se_jax.models.from_config import DECODERS, ENCODERS
from se_jax.training import start


def given(*overrides: str, recipe: str = "shapes_uper"):
    """The config of a recipe with options as typed, checked as a command checks it before it touches a device."""
    config, argv = recipes.load(recipe), ["command", *overrides]
    cli.check_names(config, argv)
    holder = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=holder, sys_argv=argv)
    holder(argv)
    start.check(holder.config)
    build(holder.config.model)
    return holder.config


# option -> what cannot be given for it; the message names the option
JUNK = {
    "seed": ("99999999999999999999", "-1", "None", "1.5", "x", "", "4294967296"),
    "num_steps": ("0", "-5", "1e20", "100000000000000000000", "None", "nan", "1e3"),
    "accumulate": ("0", "-1", "3", "2.0"),
    "ema_decay": ("1", "-0.1", "nan", "inf", "None"),
    "init_from": ("None",),
    "init_skip": ("None", "classifier"),
    "multihost": ("2", "maybe", "None"),
    "mesh.model": ("0", "-1"),
    "mesh": ("{}", "3", "None"),
    "optimizer": ("{}", "3", "None", "{'name': 'sgd'}", "[]", "sgd"),
    "optimizer.name": ("adam", "", "None", "3"),
    "optimizer.learning_rate": ("0", "-0.1", "nan", "inf", "1e39", "fast", "None", "1e-9"),
    "optimizer.min_learning_rate": ("-1", "nan", "1"),
    "optimizer.schedule": ("step", "None"),
    "optimizer.power": ("-1", "nan"),
    "optimizer.warmup_steps": ("-5", "600", "100000", "1.5"),
    "optimizer.momentum": ("2", "1", "-0.5", "nan"),
    "optimizer.weight_decay": ("nan", "-1e-4", "inf"),
    "optimizer.nesterov": ("7",),
    "optimizer.rate_multipliers": ("(1,2)", "((1,2),)", "(('(',1.0),)", "(('a',-1.0),)", "(('a',),)", "None"),
    "optimizer.decay_multipliers": ("x", "(('a','b'),)"),
    "loss": ("{}", "None"),
    "loss.name": ("dice", "None"),
    "loss.average": ("mean",),
    "loss.auxiliary_weight": ("-0.4", "nan", "inf"),
    "loss.class_weights": (
        *("(1,2)", "(0,0,0,0,0,0,0,0,0)", "(1,1,1,1,1,1,1,1,-1)", "('a',)", "None"),
        *("(1,1,1,1,1,1,1,1,True)", "(1,1,1,1,1,1,1,1,1e400)"),
    ),
    "loss.ohem.min_kept": ("-1", "99999999999"),
    "loss.ohem.threshold": ("2", "-1", "nan"),
    "calibration.max_images": ("0", "-1", "x"),
    "calibration.check_images": ("-1",),
    "eval.every_steps": ("0", "-1"),
    "eval.batch_size": ("0", "-4"),
    "eval.scale": ("64", "(0,3)", "(64,64,3)", "(1000000,1000000)", "none", "('a','b')", "(1.5,2)"),
    "eval.size_multiple": ("0", "1.5", "-64"),
    "eval.mode": ("sliding", "slide"),
    "eval.window": ("64", "(-1,4)"),
    "eval.stride": ("(0,0)",),
    "eval.tta": ("twice",),
    "checkpoint.every_steps": ("0",),
    "checkpoint.keep": ("0", "-1"),
    "log.every_steps": ("0", "-1"),
    "data": ("{}", "None"),
    "data.name": ("shape", "", "None"),
    "data.batch_size": ("-4", "0", "3000000"),
    "data.crop": ("(1000000,1000000)", "64", "(64,64,3)", "(64.0,64)", "64x64", "None", "(0,0)", "(8,8)", "(64,", "[]"),
    "data.scale": ("none", "(96,)", "", "(96,-1)", "{}", "(True,True)"),
    "data.ratio_range": ("1", "(2,1)", "(0,1)", "(nan,1)", "None"),
    "data.cat_max_ratio": ("75", "0", "nan"),
    "data.flip": ("2", "-1", "True", "nan"),
    "data.photometric": ("no way",),
    "data.on_error": ("ignore",),
    "data.max_pixels": ("0", "1000000000000"),
    "data.image_bits": ("7", "32"),
    "data.num_train": ("0", "-8"),
    "data.dir": ("None",),
    "data.image_dir": ("None",),
    "model": ("{}", "None"),
    "model.num_classes": ("0", "-1", "256", "None"),
    "model.dtype": ("float16", "None"),
    "model.encoder": ("{}", "None", "{'depth': 18}"),
    "model.encoder.name": ("vgg", "nowhere:Net", "", "None"),
    "model.encoder.depth": ("19", "-1", "None"),
    "model.encoder.width": ("0", "-4", "9", "100000000", "nan"),
    "model.encoder.output_stride": ("4", "0"),
    "model.encoder.variant": ("v9",),
    "model.encoder.multi_grid": ("(1,)", "(0,0,0)", "x"),
    "model.encoder.outputs": ("()", "(1,2)", "('layer9',)", "None"),
    "model.decoder": ("{}", "None", "uper"),
    "model.decoder.name": ("upper", "None"),
    "model.decoder.channels": ("0", "-4", "None", "1.5", "10000000"),
    "model.decoder.dropout": ("5.0", "1", "-0.1", "nan", "None"),
    "model.decoder.pool_scales": ("()", "(1,1)", "(0,1)", "('a',)", "None"),
    "model.auxiliary": ("{}{", "3"),
    "model.auxiliary.channels": ("0", "-1"),
    "model.auxiliary.in_index": ("4", "-1", "99"),
    "model.equalizer": ("{'mode': 3}", "None"),
    "model.equalizer.mode": ("explicid", "None"),
    "model.equalizer.statistics": ("batch",),
    "model.equalizer.sites": ("None",),
}


@pytest.mark.parametrize("option", JUNK)
def test_junk_is_answered_with_the_option(option):
    for value in JUNK[option]:
        with pytest.raises((ValueError, flags.Error)) as error:
            given(f"--config.{option}={value}")
        message = str(error.value)
        part = (
            "ResNet " if option.startswith("model.encoder.") else "config.model" if option == "model.equalizer" else ""
        )
        named = option in message or f"{part}{option.rpartition('.')[2]}" in message
        # a section in whose place stands something else is named by what it lacks
        assert named or f"{option}." in message, (value, message)
        assert "\n" not in message, message


def test_there_are_as_many_as_were_promised():
    assert sum(map(len, JUNK.values())) >= 150


@pytest.mark.parametrize(
    "recipe, override, message",
    [
        ("shapes_uper", "data.dir.x=1", "no option data.dir.x: data.dir is '', which has no options"),
        ("shapes_uper", "data.cropp=(64,64)", "no option data.cropp; did you mean data.crop"),
        ("shapes_uper", "crop=(64,64)", "no option crop; did you mean data.crop"),
        ("shapes_uper", "model.encoder.wdith=8", "did you mean model.encoder.width"),
        ("shapes_uper", "optimiser.momentum=0", "did you mean optimizer.momentum"),
        ("ade20k_segformer", "model.auxiliary.channels=8", "model.auxiliary is None"),
        ("shapes_aspp", "model.decoder.dilations=(1,1)", "different values"),
        ("cityscapes_sep_aspp", "model.decoder.c1_index=4", "model.decoder.c1_index is 4; .*0 to 3"),
        ("shapes_dupsampling", "model.decoder.low_level=(0,9)", r"model.decoder.low_level is \(0, 9\)"),
        ("shapes_vwformer", "model.decoder.heads=7", "heads is 7; expected a divisor"),
        ("shapes_eseg", "model.decoder.momentum=0", "model.decoder.momentum is 0.0"),
        ("ade20k_swin_uper", "model.encoder.drop_path=1", "model.encoder.drop_path is 1.0"),
        ("ade20k_swin_uper", "model.encoder.heads=(3,6,12)", "model.encoder.heads"),
        ("ade20k_segformer", "model.encoder.width=0", "model.encoder.width is 0"),
        ("camvid_mobilenetv2_sep_aspp", "model.encoder.width=-0.5", "model.encoder.width is -0.5"),
        ("shapes_uper", "data.batch_size=-4", "data.batch_size is -4; expected a whole number of 1 to 1,048,576"),
        ("shapes_uper", "optimizer.momentum=2", "momentum is 2.0; expected a number .* the default is 0.9"),
        ("shapes_uper", "optimizer={}", "optimizer.name is missing"),
    ],
)
def test_what_is_said(recipe, override, message):
    with pytest.raises((ValueError, flags.Error), match=message):
        given(f"--config.{override}", recipe=recipe)


def test_every_optional_option_is_unset_by_none():
    config = given(
        *("--config.data.scale=(96,64)", "--config.eval.scale=None", "--config.calibration.max_images=None"),
        *("--config.data.train_split=None", "--config.loss.ohem.threshold=None", "--config.model.auxiliary=None"),
        *("--config.model.encoder.multi_grid=None", "--config.model.equalizer.mode=none"),
    )
    assert config.data.scale == (96, 64) and config.eval.scale is None and config.calibration.max_images is None
    assert config.data.train_split is None and config.loss.ohem.threshold is None and config.model.auxiliary is None
    assert config.model.equalizer.mode == "none"
    assert given("--config.data.scale=None", recipe="camvid_small").data.scale is None  # which the recipe sets
    assert given("--config.data.crop=[64,64]").data.crop == (64, 64) == given("--config.data.crop=64,64").data.crop
    unset = given("--config.model.auxiliary={'in_index': 2, 'channels': 8}", recipe="ade20k_segformer")
    assert unset.model.auxiliary.channels == 8


def test_optional_options_all_take_none():
    def flat(config, above=""):
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                yield from flat(value, f"{above}{key}.")
            elif value is None:
                yield f"{above}{key}"

    found = [*flat(options.get_config()), "data.scale", "eval.scale"]
    assert len(found) > 8
    given(*(f"--config.{option}=None" for option in dict.fromkeys(found)))


def test_python_callers_and_stored_configs_are_checked_too(tmp_path):
    for change, message in (
        ({"optimizer.weight_decay": float("nan")}, "optimizer.weight_decay is nan"),
        ({"num_steps": 10**20}, "num_steps is 1000"),
        ({"model.decoder.dropout": 5.0}, "model.decoder.dropout is 5.0"),
    ):
        config = options.get_config()
        config.update_from_flattened_dict(change)
        with pytest.raises(ValueError, match=message):
            check(config)
        (tmp_path / "config.json").write_text(config.to_json())
        with pytest.raises(ValueError, match=message):
            check(stored.read(tmp_path / "config.json"))
    for junk in (None, "config", 3):
        with pytest.raises(ValueError, match="expected options"):
            check(junk)
        with pytest.raises(ValueError, match="model is .*expected options"):
            build(junk)
    config = options.get_config()
    with config.unlocked():
        config.data.cropp = (64, 64)
    with pytest.raises(ValueError, match="no option data.cropp; did you mean data.crop"):
        check(config)
    config.data.name = "mine:data"  # which may have options of its own
    check(config)


VALUES = (
    *(None, True, 0, 1, -1, 8, 16, 17, 255, 256, 2**16, 2**16 + 1, 2**26, 2**26 + 1, 178_000_001, 2**31 - 1, 2**31),
    *(0.0, 0.005, 0.01, 0.5, 1.0, 1.5, 100.0, 101.0, math.nan, math.inf, "", "stop", "shapes", "a.b:c", "abc", {}),
    *((), (1,), (1, 1), (2, 1), (0, 4), (2**13, 2**13), (2**13, 2**14), (70_000, 1), (0.5, 2.0), (2.0, 0.5), [64, 64]),
    *((-18, 18), (5, -5), (-91, 0), (0, 91), (2**16 + 1,), (0,), (1.5,)),
)


@pytest.mark.parametrize("option", [name for name in ranges.OPTIONS if name.startswith("data.")])
def test_data_pipelines_has_the_same_ranges(option):
    """They stand there, too, as it can be used without se_jax."""

    def refuses(checked, config) -> bool:
        try:
            checked(config)
        except ValueError:
            return True
        return False

    for value in VALUES:
        config = options.get_config()
        with config.unlocked(), config.ignore_type():
            config.data[option.removeprefix("data.")] = value
        ours, theirs = refuses(check, config), refuses(data_pipelines.check_config, config.data)
        assert ours == theirs, (option, value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"a": 1}', "\x00"])
def test_a_stored_config_that_is_none_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is (no config of a run|empty|damaged)"):
        recipes.load(str(tmp_path / "config.json"))


def test_a_stored_config_is_a_config(tmp_path):
    config = recipes.load("ade20k_segformer")
    (tmp_path / "config.json").write_text(config.to_json())
    again = recipes.load(str(tmp_path / "config.json"))
    assert json.loads(again.to_json()) == json.loads(config.to_json())
    assert again.optimizer.decay_multipliers == config.optimizer.decay_multipliers
    check(again)


def test_every_field_of_every_part_has_a_range():
    """And the classes' own defaults lie in it."""
    shared = {"parent", "name", "dtype", "remat", "num_classes", "align_corners", "equalizer"}
    for classes, known in ((ENCODERS, ranges.ENCODERS), (DECODERS, ranges.DECODERS)):
        assert classes.keys() == known.keys()
        for name, kind in classes.items():
            fields = {field.name: field.default for field in dataclasses.fields(kind) if field.name not in shared}
            assert fields.keys() == known[name].keys(), name
            for field, default in fields.items():
                assert known[name][field].holds(default), (name, field, default)


def test_every_option_has_a_range():
    def flat(config, above=""):
        for key, value in config.items():
            if isinstance(value, ConfigDict) and f"{above}{key}" not in (
                "model.encoder",
                "model.decoder",
                "model.auxiliary",
            ):
                yield from flat(value, f"{above}{key}.")
            elif not isinstance(value, ConfigDict):
                yield f"{above}{key}", value

    found = dict(flat(options.get_config()))
    assert found.keys() == ranges.OPTIONS.keys()
    assert all(ranges.OPTIONS[option].holds(value) for option, value in found.items())


class Own:
    """Somebody's encoder, as far as its options go."""

    width: int = 8
    rates: tuple[float, ...] = ()
    name_of_it: str | None = None


@pytest.mark.parametrize(
    "field, value", [("width", "wide"), ("width", 1.5), ("rates", (1.0, float("nan"))), ("rates", 3), ("name_of_it", 3)]
)
def test_fields_of_own_parts_have_their_types(field, value):
    from se_jax.config.check import check_types

    check_types("model.encoder", Own, {"width": 3, "rates": (1.0, 2), "name_of_it": None})
    with pytest.raises(ValueError, match=f"model.encoder.{field} is "):
        check_types("model.encoder", Own, {field: value})
    with pytest.raises(ValueError, match="model.encoder.width is"):
        check_types("model.encoder", Own, {"width": np.ones(3)})
