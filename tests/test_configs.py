"""Every config makes a network and passes the checks of a run; the recipes are the published ones."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import data_pipelines
from se_jax import losses, parallel
from se_jax.config import options as defaults
from se_jax.config import recipes
from se_jax.equalizer.sites import find_sites
from se_jax.evaluation import protocol
from se_jax.importers import export_weights
from se_jax.models import ENCODERS, build
from se_jax.training import optimizers, start
from tests.conftest import GOLDEN

FILES = [name for name in recipes.names() if name != "mine"]  # which is made for a directory: config/test_own_data.py

# What the reference's configs of a data set have in common:
# classes, steps, images a step, crop (h, w), scale (w, h), black padding, (mode, window, stride), align_corners
WHOLE = ("whole", None, None)
DATA_SETS = {
    "ade20k": (150, 160_000, 16, (512, 512), (2048, 512), False, WHOLE, False),
    "voc2012": (21, 40_000, 16, (512, 512), (2048, 512), True, WHOLE, False),
    "cityscapes": (19, 80_000, 8, (512, 1024), (2048, 1024), False, WHOLE, False),
}
HEADS = ("fcn", "psp", "aspp", "sep_aspp", "uper")
ENCODERS_OF = ("swin_uper", "twins_uper", "convnext_uper", "hrnet_fcn")
RECIPES = [f"{data}_{part}" for data in DATA_SETS for part in (*HEADS, *ENCODERS_OF)]
RECIPES += ["ade20k_segformer", "cityscapes_segformer"]


def sliding(window, stride):
    return ("slide", (window, window), (stride, stride))


# and how single recipes differ from that: "file" or "file:variant" -> {place in the tuple: value}
CITYSCAPES_769 = {3: (769, 769), 4: (2049, 1025), 6: sliding(769, 513), 7: True}
EXCEPTIONS = {
    **{f"cityscapes_{head}:{depth}_769": CITYSCAPES_769 for head in HEADS for depth in ("r50", "r101")},
    "ade20k_convnext_uper": {6: sliding(512, 341)},
    **{
        f"ade20k_convnext_uper:{size}_640": {3: (640, 640), 4: (2560, 640), 6: sliding(640, 426)}
        for size in ("base", "large", "xlarge")
    },
    "voc2012_convnext_uper": {6: sliding(512, 341)},
    "ade20k_twins_uper:pcpvt_small": {2: 32},
    "ade20k_segformer:b5_640": {3: (640, 640), 4: (2048, 640)},
    "cityscapes_segformer": {1: 160_000, 3: (1024, 1024), 6: sliding(1024, 768)},
}
# name, rate, last rate, power, warm-up, decay
SGD = ("sgd", 0.01, 1e-4, 0.9, 0, 5e-4)
ADAMW = ("adamw", 6e-5, 0.0, 1.0, 1500, 0.01)
CONVNEXT = ("adamw", 1e-4, 0.0, 1.0, 1500, 0.05)
# Parameters of the reference's whole networks in millions, with the auxiliary head; tests of the encoders count theirs.
PUBLISHED = {
    "ade20k_fcn:r50": 49.60,
    "ade20k_psp:r50": 49.08,
    "ade20k_aspp:r101": 87.21,
    "ade20k_sep_aspp:r50": 43.69,
    "ade20k_uper:r50": 66.52,
    "cityscapes_aspp:r50_769": 68.11,
    "ade20k_fcn:mobilenetv2": 9.82,
    "ade20k_sep_aspp:mobilenetv2": 15.35,
    "ade20k_swin_uper:base_window12": 121.42,
    "ade20k_convnext_uper:tiny": 60.24,
    "ade20k_twins_uper:svt_small": 53.86,
    "ade20k_segformer:b0": 3.75,
    "ade20k_hrnet_fcn:w18": 9.68,
}


# a line of a docstring: variant, the reference's config, data set, crop, mIoU in one view and in twelve
ROW = re.compile(r"^    (\w+) +(\S+-\d+k_(\S+?)-(\d+x\d+)) +([\d.]+)(?: / ([\d.]+))?$", re.M)


def load(name):
    return recipes.module(name)


def get(name):
    """The config of 'file' or 'file:variant'."""
    name, _, variant = name.partition(":")
    return load(name).get_config(*([variant] if variant else []))


def variants(names):
    """'file:variant' for every variant of those files; 'file' where there are none."""
    return [
        f"{name}:{variant}" if variant else name for name in names for variant in getattr(load(name), "VARIANTS", ("",))
    ]


def keys(config, path=""):
    """Dotted names of all options."""
    nested = [
        keys(value, f"{path}{key}.") if hasattr(value, "items") else {f"{path}{key}"} for key, value in config.items()
    ]
    return set().union(*nested)


# ---- All configs ----


def test_every_config_makes_a_network_with_equalizers(accelerator_form):
    for name in [name for name in FILES if name not in RECIPES]:
        config = get(name)
        model = build(config.model)
        start.check_network(config, model)


def test_every_variant_passes_the_checks():
    meshes = [parallel.make_mesh(devices=jax.devices()[:count]) for count in (1, 8)]
    for name in variants(FILES):
        config = get(name)
        model = build(config.model)
        start.check(config)
        start.check_devices(config, meshes[config.data.batch_size >= 8])
        model.decoder.check(config.model.encoder.get("output_stride", 32), config.data.crop)
        protocol.check(model, config.eval)
        losses.build(config.loss, model)
        data_pipelines.check_config(config.data)
        optimizers.build(config.optimizer, config.num_steps)
        if config.model.equalizer.mode == "none":
            assert any(kind in name for kind in ("fcn", "eomt", "linear")), name


def test_every_config_has_the_common_options_and_says_how_to_run_it():
    for name in FILES:
        config, module = get(name), load(name)
        ours = (
            "model.encoder.",
            "model.decoder.",
            *(("model.auxiliary.",) if config.model.auxiliary is None else ()),
        )
        common = {key for key in keys(defaults.get_config()) if not key.startswith(ours)}
        assert common <= keys(config), name
        assert f"python -m se_jax.main --config=configs/{name}.py" in module.__doc__
        for file, variant in re.findall(r"(\w+)\.py(?::(\w+))?", module.__doc__):
            assert file in FILES, (name, file)
            assert not variant or variant in load(file).VARIANTS, (name, file, variant)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_options_are_its_fields_and_not_tied_together(name):
    options = ConfigDict(defaults.encoder(name))
    for key in options:
        assert key == "name" or hasattr(ENCODERS[name], key), key
    unset = [key for key, value in options.items() if value is None]
    values = {int: 8, float: 0.1, tuple: (8,), bool: True}
    for count, key in enumerate(unset, 1):
        options[key] = values[options.get_type(key)]  # also of the type that the option may have
        assert [options[k] is None for k in unset].count(True) == len(unset) - count


def test_fcn_fuses_four_stages():
    config = load("camvid_fcn").get_config()
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    assert [site.name for site in find_sites(build(config.model), images)] == ["resize_concat"]


# ---- The recipes of the published data sets ----


def options(config):
    """The options that DATA_SETS lists."""
    data, protocol = config.data, config.eval
    assert data.scale == protocol.scale
    return (
        config.model.num_classes,
        config.num_steps,
        data.batch_size,
        data.crop,
        data.scale,
        data.black_padding,
        (protocol.mode, protocol.window, protocol.stride),
        config.model.align_corners,
    )


def test_recipe_has_the_options_of_its_data_set():
    for name in variants(RECIPES):
        file, _, variant = name.partition(":")
        config = get(name)
        expected = list(DATA_SETS[config.data.name])
        for place, value in (EXCEPTIONS.get(file, {}) | EXCEPTIONS.get(name, {})).items():
            expected[place] = value
        assert options(config) == tuple(expected)
        assert file.startswith(config.data.name)
        assert config.eval.every_steps == config.checkpoint.every_steps == config.num_steps / 10
        augmentation = config.data
        assert (augmentation.ratio_range, augmentation.cat_max_ratio, augmentation.flip) == ((0.5, 2.0), 0.75, 0.5)
        assert augmentation.photometric
        assert (config.loss.average, config.loss.auxiliary_weight) == ("all", 0.4)
        no_auxiliary = "segformer" in file or "hrnet" in file
        assert config.model.auxiliary == (None if no_auxiliary else ConfigDict({"in_index": 2, "channels": 256}))


def test_recipe_has_the_optimizer_of_its_encoder():
    for name in variants(RECIPES):
        found = get(name).optimizer
        expected = {"resnet": SGD, "mobilenetv2": SGD, "hrnet": SGD, "convnext": CONVNEXT}
        expected = expected.get(get(name).model.encoder.name, ADAMW)
        if "convnext" in name and ":xlarge" in name:
            expected = (expected[0], 8e-5, *expected[2:])
        keys = ("name", "learning_rate", "min_learning_rate", "power", "warmup_steps", "weight_decay")
        assert tuple(found[key] for key in keys) == expected
        multiplied = {"convnext": 5, "mit": 1}.get(get(name).model.encoder.name, 0)
        assert len(found.rate_multipliers) == multiplied


@functools.cache
def plain(name):
    """The network of a recipe without equalizers, and the shapes of its variables."""
    config = get(name)
    config.model.equalizer.mode = "none"
    model = build(config.model)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_makes_the_published_network(name):
    config, (_, shapes) = get(name), plain(name)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) / 1e6
    assert abs(count - PUBLISHED[name]) < 0.0051
    assert not parallel.uncovered(shapes["params"])
    tx, _ = optimizers.build(config.optimizer, config.num_steps)
    jax.eval_shape(tx.init, shapes["params"])  # finds every pattern of the multipliers among the parameters


def test_data_sets_share_their_networks():
    """What is checked of ADE20K's networks holds for the others': only classes and the edges of resizes differ."""

    def network(name):
        model = json.loads(get(name).model.to_json())
        return {key: value for key, value in model.items() if key not in ("num_classes", "align_corners")}

    for name in variants(RECIPES):
        file, variant = name.split(":")
        part = file.split("_", 1)[1]
        alike = f"ade20k_{part}:{variant.removesuffix('_769')}"
        if alike in variants(RECIPES):
            assert network(name) == network(alike), name
        else:  # ADE20K's have these at 640 x 640
            assert network(name) == network(f"{alike}_640"), name


MASK2FORMER = ["ade20k_mask2former", "cityscapes_mask2former", "ade20k_vw_mask2former"]


def test_mask2former_has_the_options_of_its_authors():
    sides = {
        512: (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024),
        640: tuple(range(320, 1281, 64)),
        1024: (512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536, 1638, 1740, 1843, 1945, 2048),
    }
    for name in variants(MASK2FORMER):
        config = get(name)
        data, large = config.data, name.endswith(("base", "large"))
        city = data.name == "cityscapes"
        short = 1024 if city else 640 if large else 512
        assert data.crop == ((512, 1024) if city else (short, short))
        assert (data.short_sides, data.longest_side, data.scale) == (sides[short], 4 * short, None)
        assert config.eval.scale == ((2048, 1024) if city else (4 * short, short))
        assert (config.num_steps, data.batch_size) == (90_000 if city else 160_000, 16)
        assert (data.padding, data.hue, data.antialias, data.cat_max_ratio) == (128, (-18, 18), True, 1.0)
        optimizer = config.optimizer
        assert (optimizer.name, optimizer.learning_rate, optimizer.weight_decay) == ("adamw", 1e-4, 0.05)
        assert (optimizer.schedule, optimizer.power, optimizer.min_learning_rate) == ("poly_open", 0.9, 0.0)
        assert (optimizer.clip_norm, optimizer.warmup_steps, config.model.dtype) == (0.01, 0, "bfloat16")
        assert config.model.encoder.get("window") == (12 if large else None)
        assert config.model.encoder.get("frozen_norm", False) == (name == "ade20k_mask2former:r50")
        assert losses.build(config.loss, build(config.model))[0].targets == (19 if city else 100)


def test_eomt_has_the_options_of_its_authors():
    steps = {("ade20k", "dinov2"): 39_153, ("ade20k", "dinov3"): 20_208, ("cityscapes", "dinov2"): 19_795}
    for data, side in (("ade20k", 512), ("cityscapes", 1024)):
        for size, depth, blocks in (("small", 12, 3), ("base", 12, 3), ("large", 24, 4)):
            config = get(f"{data}_eomt:dinov2_{size}")
            assert (config.data.crop, config.data.scale) == ((side, side), (side, side))
            assert (config.eval.mode, config.eval.window, config.eval.scale) == ("spread", (side, side), None)
            assert (config.num_steps, config.data.batch_size) == (steps[data, "dinov2"], 16)
            optimizer, encoder = config.optimizer, build(config.model).encoder
            assert (encoder.sizes.depth, encoder.sizes.patch, encoder.sizes.registers) == (depth, 16, 4)
            assert encoder.table_grid == (side // 16, side // 16)
            assert (config.model.decoder.blocks, config.loss.name) == (blocks, "masks")
            assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm) == (1e-4, 0.05, 0.01)
            assert (optimizer.warmup_steps, optimizer.second_warmup_steps) == (500, 1000)
            assert optimizer.rate_multipliers[0] == ("^encoder/blocks_0/", 0.8 ** (depth - 1))
    for data, starts in (("ade20k", (6520, 13_040, 19_560, 26_080)), ("cityscapes", (3317, 6634, 9951, 13_268))):
        config = get(f"{data}_eomt:dinov2_large")
        spans = config.num_steps * np.array(config.model.decoder.anneal)
        np.testing.assert_allclose(spans, np.array([starts, np.array(starts) + starts[0]]).T, rtol=1e-6)
    config = get("ade20k_eomt:dinov3_large")
    assert (config.num_steps, config.optimizer.learning_rate, config.optimizer.rate_multipliers) == (20_208, 2e-4, ())
    assert (config.optimizer.warmup_steps, config.optimizer.second_warmup_steps) == (2000, 3000)


def test_output_strides_and_dilations():
    for head in HEADS:
        encoder = get(f"cityscapes_{head}:r101").model.encoder
        assert (encoder.depth, encoder.variant) == (101, "v1c")
        assert encoder.output_stride == (32 if head == "uper" else 8)
    assert get("ade20k_aspp").model.decoder.dilations == (1, 12, 24, 36)


def test_an_unknown_variant_is_named_with_those_that_are_known():
    for name in RECIPES:
        known = load(name).VARIANTS
        with pytest.raises(ValueError, match=f"no variant 'r7'; expected one of {', '.join(known)}"):
            load(name).get_config("r7")


def test_rows_are_of_variants_and_of_their_data_set():
    """Lines such as '    r50  deeplabv3_r50-d8_4xb4-80k_ade20k-512x512  42.42 / 43.28'."""
    for name in RECIPES:
        rows = ROW.findall(load(name).__doc__)
        assert bool(rows) == ("8xb" in load(name).__doc__ or "4xb" in load(name).__doc__)
        for variant, _, data, crop, once, views in rows:
            config = get(f"{name}:{variant}")
            assert data == {"voc2012": "voc12aug"}.get(config.data.name, config.data.name)
            assert crop == "x".join(map(str, config.data.crop))
            assert not views or 0 < float(views) - float(once) < 4  # twelve views are better than one, by a little


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("ade20k_convnext_uper:tiny", "convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512"),
        ("ade20k_segformer:b0", "segformer_mit-b0_8xb2-160k_ade20k-512x512"),
        ("cityscapes_fcn:r50", "fcn_r50-d8_4xb2-40k_cityscapes-512x1024"),
    ],
)
def test_a_published_checkpoint_has_the_parameters_of_its_recipe(name, row):
    file, _, variant = name.partition(":")
    assert (variant, row) in [found[:2] for found in ROW.findall(load(file).__doc__)]
    model, shapes = plain(name)
    tensors = export_weights(model, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes))
    trained = {key for key in tensors if "running_" not in key and "num_batches" not in key}
    assert trained == json.loads((GOLDEN / "param_groups.json").read_text())[row].keys()
