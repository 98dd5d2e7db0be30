"""Mask2FormerHead against the PyTorch reference: its operations, its parts, whole networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from se_jax.evaluation import inference
from se_jax.evaluation.protocol import Protocol, View
from se_jax.importers import import_weights
from se_jax.models import Mask2FormerHead, ResNet, Segmenter, Swin, VWMask2FormerHead
from se_jax.models.decoders.queries import mask_scores
from se_jax.models.decoders.vw_mask2former import VaryingWindows
from se_jax.models.deformable import offset_bias, sample_levels, sine_position
from se_jax.models.layers import resize
from se_jax.models.masked_attention import QueryDecoder, open_pixels
from se_jax.models.segmenter import normalize
from tests import tiny
from tests.conftest import assert_close_to_reference, part_and_whole
from tests.evaluation.test_inference import assembled


def make_head(config) -> Mask2FormerHead:
    """Our head of a golden case's description, which has mmsegmentation's options."""
    pixel = config["pixel_decoder"]["encoder"]
    attention, ffn = pixel["layer_cfg"]["self_attn_cfg"], pixel["layer_cfg"]["ffn_cfg"]
    decoder = config["transformer_decoder"]
    return Mask2FormerHead(
        config["num_classes"],
        channels=config["feat_channels"],
        mask_channels=config["out_channels"],
        queries=config["num_queries"],
        layers=decoder["num_layers"],
        heads=decoder["layer_cfg"]["cross_attn_cfg"]["num_heads"],
        hidden=decoder["layer_cfg"]["ffn_cfg"]["feedforward_channels"],
        pixel_layers=pixel["num_layers"],
        pixel_heads=attention["num_heads"],
        pixel_points=attention["num_points"],
        pixel_hidden=ffn["feedforward_channels"],
        align_corners=config["align_corners"],
    )


def make_encoder(config):
    """Our encoder of a golden case's network."""
    if config["type"] == "SwinTransformer":
        return Swin(
            width=config["embed_dims"],
            depths=config["depths"],
            heads=config["num_heads"],
            window=config["window_size"],
            mlp_ratio=config["mlp_ratio"],
        )
    return ResNet(config["depth"], "v1b", output_stride=32, width=config.get("base_channels", 64))


def nhwc(x):
    return np.moveaxis(x, -3, -1)


def masks_of(outputs):
    """Logits of all predictions' masks, [predictions, b, queries, h, w]."""
    return jnp.einsum("pbqc,bhwc->pbqhw", outputs["mask_embeddings"], outputs["mask_features"])


def part(head, features, tensors, *path: str):
    """The variables of one part of a head, from the tensors that a checkpoint has of it."""
    flat = traverse_util.flatten_dict(jax.eval_shape(head.init, jax.random.key(0), features))
    template = {key: leaf for key, leaf in flat.items() if key[1 : len(path) + 1] == path}
    variables = traverse_util.flatten_dict(import_weights(head, tensors, traverse_util.unflatten_dict(template)))
    return traverse_util.unflatten_dict({(key[0], *key[len(path) + 1 :]): leaf for key, leaf in variables.items()})


@pytest.mark.parametrize("levels", ["odd", "thin"])
def test_samples_of_levels_equal_the_reference(golden, levels):
    case = golden("m2f_ops")
    sizes = tuple(map(tuple, case.meta["msda"][levels]))
    value, locations, weights, cotangent = (
        case[f"in/msda/{levels}/{name}"] for name in ("value", "locations", "weights", "cotangent")
    )

    @jax.jit
    def run(*arrays):
        y, backward = jax.vjp(lambda *arrays: sample_levels(*arrays, sizes), *arrays)
        return y, *backward(jnp.asarray(cotangent))

    names = ("y", "grad_value", "grad_locations", "grad_weights")
    for name, found in zip(names, run(value, locations, weights), strict=True):
        assert_close_to_reference(found, case[f"out/msda/{levels}/{name}"])


@part_and_whole
def test_constants_equal_the_reference(golden, which):
    case = golden("m2f_ops", which)
    for name, expected in case.group("out/position").items():
        height, width, half = case.meta["position"][name]
        found = sine_position((height, width), 2 * half).transpose(2, 0, 1)
        assert_close_to_reference(found, expected)
    for heads, expected in case.group("out/offset_bias").items():
        assert_close_to_reference(offset_bias(int(heads), *expected.shape[1:3]), expected)


def test_attention_masks_equal_the_reference(golden):
    """Masks are products with features; with one feature a mask these are the masks themselves."""
    case = golden("m2f_ops")
    masks = nhwc(case["in/masks"])
    queries = np.broadcast_to(np.eye(masks.shape[-1], dtype=np.float32), (len(masks), masks.shape[-1], masks.shape[-1]))
    for size in map(tuple, case.meta["mask_sizes"]):
        name = f"out/masks/{size[0]}x{size[1]}"
        resized = resize(masks, size)
        assert_close_to_reference(resized, nhwc(case[f"{name}/resized"]))
        blocked = case[f"{name}/blocked"].reshape(len(masks), masks.shape[-1], -1)
        allowed = open_pixels(queries, resized.reshape(len(masks), -1, masks.shape[-1]))
        np.testing.assert_array_equal(allowed, ~blocked | blocked.all(-1, keepdims=True))


def test_pixel_decoder_equals_the_reference(golden):
    case = golden("m2f_pixel_odd", "whole")
    features = [nhwc(case[f"in/{i}"]) for i in range(4)]
    head = make_head(case.meta["config"])
    variables = part(head, features, case.group("sd"), "pixel_decoder")
    mask_features, memories = jax.jit(head.pixel_decoder(parent=None).apply)(variables, features)
    assert_close_to_reference(mask_features, nhwc(case["out/mask_features"]))
    for i, memory in enumerate(memories):
        assert_close_to_reference(memory, nhwc(case[f"out/level{i}"]))


def test_decoder_of_queries_equals_the_reference(golden):
    case = golden("m2f_decoder", "whole")
    head = make_head(case.meta["config"])
    features = [jnp.zeros((2, 64 >> i, 64 >> i, 8)) for i in range(4)]
    variables = part(head, features, case.group("sd"), "query_decoder")
    levels = sorted(name for name in case.group("in") if name.startswith("level"))
    mask_features, memories = nhwc(case["in/mask_features"]), [nhwc(case[f"in/{name}"]) for name in levels]
    decoder = QueryDecoder(head.num_classes, head.queries, head.layers, head.heads, head.hidden)
    classes, embeddings = jax.jit(decoder.apply)(variables, mask_features, memories)
    assert_close_to_reference(classes, case["out/classes"])
    outputs = {"mask_embeddings": embeddings, "mask_features": mask_features}
    assert_close_to_reference(masks_of(outputs), case["out/masks"])


@pytest.mark.parametrize("name", ["ade", "odd"])
def test_scores_equal_the_reference(golden, monkeypatch, name):
    case = golden("m2f_semantic")
    monkeypatch.setattr("se_jax.models.decoders.queries.MOST_NUMBERS", 2 * 7 * 96 * 10)  # several tiles
    sizes = case.meta["sizes"][name]
    classes = jax.nn.softmax(case[f"in/{name}/classes"])[..., :-1]
    scores = jax.jit(mask_scores, static_argnums=2)(classes, nhwc(case[f"in/{name}/masks"]), tuple(sizes["padded"]))
    assert_close_to_reference(scores, nhwc(case[f"out/{name}/score"]))
    height, width = sizes["image"]
    final = resize(scores[:, :height, :width], sizes["original"])
    assert_close_to_reference(final, nhwc(case[f"out/{name}/final"]))
    np.testing.assert_array_equal(final.argmax(-1), case[f"out/{name}/prediction"])


def test_network_equals_the_reference(golden):
    case = golden("m2f_net_swin", "whole")
    config = case.meta["model"]
    model = Segmenter(make_encoder(config["backbone"]), make_head(config["decode_head"]))
    template = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = import_weights(model, case.group("sd"), template)

    @jax.jit
    def run(variables, images):  # without padding, as the reference was run
        encoder, decoder = (
            {kind: tree.get(name, {}) for kind, tree in variables.items()} for name in ("encoder", "decoder")
        )
        features = model.encoder.apply(encoder, images)
        outputs = model.decoder.apply(decoder, features)
        return features, outputs, masks_of(outputs), model.decoder.scores(outputs, images.shape[1:3])

    for name in case.meta["inputs"]:
        features, outputs, masks, scores = run(variables, nhwc(case[f"in/{name}"]))
        for i, feature in enumerate(features):
            assert_close_to_reference(feature, nhwc(case[f"out/{name}/feature{i}"]))
        assert_close_to_reference(outputs["class_logits"], case[f"out/{name}/classes"])
        assert_close_to_reference(masks, case[f"out/{name}/masks"])
        assert_close_to_reference(scores, nhwc(case[f"out/{name}/score"]))


def test_segments_are_the_surest_queries():
    rng = np.random.default_rng(0)
    head = Mask2FormerHead(3, 32, queries=6)
    outputs = {
        "class_logits": rng.normal(size=(2, 1, 6, 4)).astype(np.float32),
        "mask_embeddings": rng.normal(size=(2, 1, 6, 5)).astype(np.float32),
        "mask_features": rng.normal(size=(1, 8, 8, 5)).astype(np.float32),
    }
    found = head.segments(outputs, (32, 32), 2)
    classes = np.asarray(jax.nn.softmax(outputs["class_logits"][-1, 0]))[:, :3]
    order = np.argsort(-classes.max(1))[:2]
    np.testing.assert_allclose(found["score"][0], classes.max(1)[order], rtol=1e-6)
    np.testing.assert_array_equal(found["class_id"][0], classes.argmax(1)[order])
    masks = resize(nhwc(masks_of(outputs)[-1]), (32, 32))[0, ..., order]
    np.testing.assert_allclose(found["mask"][0], jax.nn.sigmoid(masks), atol=1e-5)


@pytest.mark.parametrize("variant", ["a", "b"])
def test_varying_windows_equal_the_reference(golden, variant):
    case = golden("m2f_vw", "whole")
    sizes = case.meta["variants"][variant]
    head = VWMask2FormerHead(
        5,
        channels=sizes["out"],
        variant=variant,
        vw_channels=sizes["width"],
        vw_heads=sizes["heads"],
        low_channels=sizes["low"],
        heads=4,
        pixel_heads=4,
    )
    features = [nhwc(case[f"in/{variant}/c{i}"]) for i in range(1, 5)]
    tensors = {f"pixel_decoder.{name}": tensor for name, tensor in case.group(f"sd/{variant}").items()}
    if variant == "a":
        module, inputs, path = head.pixel_decoder(parent=None), (features,), ("pixel_decoder",)
    else:  # the case begins behind the deformable attention
        module = VaryingWindows(sizes["out"], sizes["width"], sizes["low"], sizes["heads"], image_pool=False)
        inputs, path = (features[0], features[1:]), ("pixel_decoder", "windows")
    # what of the head stands before the case has other widths
    variables = part(head, features, tensors, *path)
    for train in (False, True):
        found = jax.jit(functools.partial(module.apply, train=train))(variables, *inputs)
        expected = case.group(f"out/{variant}/{'train' if train else 'eval'}")
        mask_features, memories = found if variant == "a" else (found, [])
        assert_close_to_reference(mask_features, nhwc(expected["mask_features"]))
        for i, memory in enumerate(memories):
            assert_close_to_reference(memory, nhwc(expected[f"level{i}"]))


def test_inference_pads_enlarges_sums_and_averages_raw_scores():
    """Whole images, windows and views, against the same steps written out."""
    model = tiny.network("mask2former")
    variables = tiny.init(model, 64)
    image = np.ascontiguousarray(tiny.images(1, 64)[:, :40, :56])

    @jax.jit
    def scores(image):
        padded = jnp.pad(normalize(image), ((0, 0), (0, 64 - image.shape[1]), (0, 64 - image.shape[2]), (0, 0)))
        outputs = model.apply(variables, padded)
        masks = jnp.einsum("bqc,bhwc->bhwq", outputs["mask_embeddings"][-1], outputs["mask_features"])
        classes = jax.nn.softmax(outputs["class_logits"][-1])[..., :-1]
        found = jnp.einsum("bhwq,bqk->bhwk", jax.nn.sigmoid(resize(masks, (64, 64))), classes)
        return found[:, : image.shape[1], : image.shape[2]]

    whole = scores(image)
    programs = inference.build(model, Protocol())
    assert_close_to_reference(assembled(programs, variables, image), whole)
    views = [View((40, 56)), View((40, 56), mirrored=True)]
    both = assembled(programs, variables, image, views=views)
    assert_close_to_reference(both, whole + scores(image[:, :, ::-1])[:, :, ::-1])  # no softmax
    windows = inference.build(model, Protocol("slide", (40, 40), (40, 16)))
    total = np.zeros_like(whole)
    for start in (0, 16):
        total[:, :, start : start + 40] += scores(image[:, :, start : start + 40])
    total[:, :, 16:40] /= 2
    assert_close_to_reference(assembled(windows, variables, image), total)


def test_memory_of_samples_is_bounded():
    """A layer at 512x512: all corners of all samples at once would be 265 MiB forward and 632 with gradients."""
    sizes, tokens = ((16, 16), (32, 32), (64, 64)), 5376
    shapes = [jax.ShapeDtypeStruct((1, tokens, 8, *rest), jnp.float32) for rest in ((32,), (3, 4, 2), (3, 4))]

    def total(*arrays):
        return jnp.sum(jnp.square(sample_levels(*arrays, sizes)))

    for function, most in ((total, 29), (jax.grad(total, (0, 1, 2)), 58)):
        memory = jax.jit(function).lower(*shapes).compile().memory_analysis()
        assert memory.temp_size_in_bytes < most * 2**20


def test_memory_of_scores_does_not_grow_with_the_queries():
    """100 masks at 512x1024 would be 200 MiB; the scores of 5 classes are 10."""
    classes, masks = jnp.zeros((1, 100, 5)), jnp.zeros((1, 128, 256, 100))
    compiled = jax.jit(mask_scores, static_argnums=2).lower(classes, masks, (512, 1024)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 120 * 2**20


def test_crops_that_would_be_padded_are_refused():
    with pytest.raises(ValueError, match=r"data.crop is \(360, 480\); .* multiples of 32, e.g. \(384, 480\)"):
        Mask2FormerHead(5).check(32, (360, 480))
    Mask2FormerHead(5).check(32, (512, 1024))


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (Mask2FormerHead, {"channels": 48}, "channels is 48; expected a multiple of 32"),
        (Mask2FormerHead, {"channels": 64, "heads": 6}, "channels is 64; expected a multiple of 96"),
        (Mask2FormerHead, {"dropout": 0.1}, "dropout is 0.1; expected 0"),
        (VWMask2FormerHead, {"variant": "c"}, "variant is 'c'; expected one of a, b"),
        (VWMask2FormerHead, {"vw_channels": 96}, "vw_channels is 96; expected a multiple of 64"),
    ],
)
def test_sizes_that_cannot_be_are_named(head, options, message):
    with pytest.raises(ValueError, match=message):
        head(5, **options)


def test_features_that_cannot_be_cut_into_windows_are_refused():
    head = VWMask2FormerHead(5, channels=32, vw_channels=64, layers=1)
    with pytest.raises(ValueError, match="expected four of strides 4, 8, 16 and 32, of an image .* multiples of 64"):
        jax.eval_shape(head.init, jax.random.key(0), [jnp.zeros((1, 24 >> i, 16 >> i, 8)) for i in range(4)])


def test_queries_see_their_masks_or_everything():
    """Logits of 1 and -1 on two pixels; a query that sees nothing, and one that sees all of it."""
    features = jnp.array([[[1.0], [-1.0]]])
    allowed = open_pixels(jnp.array([[[1.0], [-1.0]]]), features)
    np.testing.assert_array_equal(allowed[0], [[True, False], [False, True]])
    assert open_pixels(jnp.array([[[-1.0]]]), jnp.ones((1, 3, 1))).all()
