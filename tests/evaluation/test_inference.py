"""Inference: the reference's numbers, whole, by windows and in twelve views; few compilations; errors by name."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from se_jax import parallel
from se_jax.config import options as defaults
from se_jax.config.normalization import INCEPTION
from se_jax.evaluation import geometry, inference
from se_jax.evaluation.protocol import Protocol, View, check, input_size, protocol
from se_jax.importers.convert import import_weights
from se_jax.models import FCNHead, PSPHead, ResNet, Segmenter, VWFormerHead
from se_jax.models.layers import resize
from se_jax.models.segmenter import normalize
from tests.conftest import assert_close_to_reference

SLIDE = Protocol("slide", (64, 64), (43, 43))


def one_device():
    return parallel.make_mesh(devices=jax.devices()[:1])


@functools.cache
def reference_model():
    """The network of the golden inference cases."""
    encoder = ResNet(18, variant="v1c", width=8, output_stride=8)
    auxiliary = FCNHead(5, 8, num_convs=1, concat_input=False, in_index=2)
    model = Segmenter(encoder, PSPHead(num_classes=5, channels=16), auxiliary)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def reference(case, protocol):
    """(Inference, variables) of a golden case."""
    model, shapes = reference_model()
    return inference.build(model, protocol), import_weights(model, case.group("sd"), shapes)


def assembled(programs, variables, images, **options):
    """Scores of a whole batch, out of their tiles."""
    parts = list(programs.scores(variables, images, **options))
    rows, columns, last = parts[-1]
    found = np.full((len(images), rows.stop, columns.stop, last.shape[-1]), np.nan, np.float32)
    for rows, columns, scores in parts:
        found[:, rows, columns] = scores[:, : rows.stop - rows.start, : columns.stop - columns.start]
    assert np.isfinite(found).all()
    return found


@pytest.mark.parametrize("name, protocol", [("infer_whole_ac0", Protocol()), ("infer_slide_ac0", SLIDE)])
def test_whole_and_slide_are_the_references(golden, name, protocol):
    case = golden(name)
    programs, variables = reference(case, protocol)
    programs.tile = 64  # several tiles an image
    for item in case.meta["items"]:
        if item["flip"] == "vertical":  # no view of ours
            continue
        i, size, mirrored = item["i"], tuple(item["ori_shape"]), item["flip"] == "horizontal"
        image = case[f"in/img_bgr_u8/{i}"][None, ..., ::-1]
        inputs = normalize(image.astype(np.float32))
        assert_close_to_reference(inputs, np.moveaxis(case[f"in/normalised/{i}"], 1, -1))
        at_input = assembled(programs, variables, image, views=[View(image.shape[1:3])])
        assert_close_to_reference(at_input, np.moveaxis(case[f"out/infer_logits/{i}"], 1, -1))
        if mirrored:  # the case's picture is mirrored already, and a mirrored view does it again
            image = image[:, :, ::-1]
        final = assembled(programs, variables, image, views=[View(image.shape[1:3], mirrored)], size=size)[0]
        assert_close_to_reference(final, np.moveaxis(case[f"out/final_logits/{i}"], 0, -1))
        assert np.mean(np.argmax(final, -1) == case[f"pred/{i}"][0]) > 0.9999


def test_twelve_views_are_the_references(golden):
    case = golden("infer_tta_whole")
    protocol = Protocol(tta=True)
    programs, variables = reference(case, protocol)
    image = case["in/img_bgr_u8"][None, ..., ::-1]
    size = image.shape[1:3]
    views = protocol.views(size)
    total = np.zeros((*size, 5), np.float32)
    for view, theirs in zip(views, case.meta["views"], strict=True):
        assert list(view.size) == theirs["shape"][1:] and view.mirrored == theirs["flip"]
        shown = case[f"in/view_bgr_u8/{theirs['i']}"][None, :, :: -1 if view.mirrored else 1, ::-1]
        logits = assembled(programs, variables, shown, views=[view], size=size)[0]
        if theirs["i"] in (0, 11):
            expected = case["out/view_logits_" + ("last" if theirs["i"] else "first")]
            assert_close_to_reference(logits, np.moveaxis(expected, 0, -1))
        total += jax.nn.softmax(logits)
    mean = np.moveaxis(case["out/mean_softmax"], 0, -1)
    assert_close_to_reference(total / 12, mean)
    # the same from the image alone: its views' pixels differ from OpenCV's by at most one level
    summed = assembled(programs, variables, image)[0]
    assert np.abs(summed / 12 - mean).max() < 0.02
    assert np.mean(np.argmax(summed, -1) == case["pred/0"][0]) > 0.995
    np.testing.assert_array_equal(programs.class_ids(variables, image)[0], np.argmax(summed, -1))


@dataclasses.dataclass(frozen=True)
class Sampler:
    """In place of a network: every fourth pixel of every fourth row."""

    align_corners: bool = False
    num_classes: int = 3

    linear_scores, probabilities = True, staticmethod(jax.nn.softmax)
    normalize = staticmethod(functools.partial(normalize, normalization=INCEPTION))

    def apply(self, variables, images):
        return {"logits": images[:, ::4, ::4]}


def pictures(*sizes):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def compiled():
    """A list that grows by one at every compilation of XLA."""
    events, listening = [], True

    def listen(event, seconds, **_):
        if listening and event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    listening = False


SIZES = ((24, 32), (30, 40), (21, 28), (18, 24), (27, 36), (40, 30), (36, 27), (20, 20), (25, 25), (31, 31))
FITTED = {(32, 43), (43, 32), (32, 32)}  # what they are at the scale below


def test_whole_compiles_the_network_once_an_input_size(compiled):
    protocol = Protocol(scale=(64, 32))
    assert {view.size for size in SIZES for view in protocol.views(size)} == FITTED
    programs = inference.Inference(Sampler(), protocol, one_device())
    for image in pictures(*SIZES):
        programs.class_ids({}, image)
    counts = programs.compilations
    assert counts["network"] == len(FITTED) < len(SIZES)
    assert counts.total() == len(compiled)  # what is told is what XLA did
    assert counts["resize"] <= 6 and counts["restore"] <= 4 and counts["blank"] == counts["class ids"] <= 4
    for image in pictures((33, 44), (44, 33), (17, 17), (26, 26)):  # other sizes, same fit
        programs.class_ids({}, image)
    assert counts["network"] == len(FITTED) and counts.total() == len(compiled)


def test_windows_compile_the_network_once(compiled):
    programs = inference.Inference(Sampler(), Protocol("slide", (16, 16), (11, 11), tta=True), one_device())
    for image in pictures((32, 43), (40, 33), (64, 32), (37, 50), (33, 33)):
        programs.class_ids({}, image)
    assert programs.compilations["network"] == 1
    assert programs.compilations.total() == len(compiled) <= 20
    programs.class_ids({}, *pictures((24, 40)))  # half of it is lower than the window, which is then as low
    assert programs.compilations["network"] == 2


def test_a_window_is_computed_once_and_kept_no_longer_than_needed(monkeypatch):
    programs = inference.Inference(Sampler(), Protocol("slide", (16, 16), (8, 8)), one_device())
    programs.tile = 16
    computed, kept = [], []
    window_logits, forget = programs.window_logits, inference.Seen.forget

    def watched(self, above):
        kept.append(len(self.kept))
        forget(self, above)

    monkeypatch.setattr(programs, "window_logits", lambda *args: computed.append(args) or window_logits(*args))
    monkeypatch.setattr(inference.Seen, "forget", watched)
    image = pictures((80, 24))[0]
    scores = assembled(programs, {}, image)
    assert len(computed) == 9 * 2 and max(kept) <= 3 * 2
    programs.tile = 256  # tiles change nothing
    np.testing.assert_allclose(assembled(programs, {}, image), scores, atol=1e-5 * scores.std())


def test_a_scale_changes_the_networks_input_not_the_outputs_size():
    image = pictures((24, 32))[0]
    scaled = assembled(inference.build(Sampler(), Protocol(scale=(64, 32))), {}, image)
    plain = assembled(inference.build(Sampler(), Protocol()), {}, image)
    assert scaled.shape == plain.shape == (1, 24, 32, 3)
    assert np.abs(scaled - plain).max() > 1e-3


def test_sides_are_rounded_up_by_a_second_resize_as_the_references():
    """Its ResizeToMultiple takes what its Resize made, rounded to whole levels, and keeps no ratio."""
    protocol = Protocol(scale=(64, 40), size_multiple=16)
    assert protocol.views((24, 36)) == [View((48, 64), fitted=(40, 60))]
    assert protocol.views((40, 64)) == [View((48, 64))]  # fitted as it is
    assert protocol.views((20, 24)) == [View((48, 48), fitted=(40, 48))]
    assert Protocol(scale=(64, 40)).views((24, 36)) == [View((40, 60))]
    sizes = [view.size for view in Protocol(tta=True, size_multiple=16).views((24, 36))[::2]]
    assert sizes == [(16, 32), (32, 32), (32, 48), (32, 48), (48, 64), (48, 64)]
    assert Protocol("slide", (32, 32), (32, 16), False, (64, 40), 16).windows(48, axis=0) == (32, (0, 16))

    seen = []

    class Watched(Sampler):
        def apply(self, variables, images):
            jax.debug.callback(lambda x: seen.append(np.asarray(x)), images)
            return super().apply(variables, images)

    programs = inference.Inference(Watched(), protocol, one_device())
    image = pictures((24, 36))[0]
    assert assembled(programs, {}, image).shape == (1, 24, 36, 3)
    jax.effects_barrier()
    twice = inference.fit(image, *map(geometry.taps, (24, 36), (40, 60)))
    twice = inference.fit(twice, *map(geometry.taps, (40, 60), (48, 64)))
    normalize = Sampler.normalize
    one_level = 1.01 * np.ptp(normalize(np.array([0, 1])[:, None, None, None] * np.ones(3)), axis=0).max()
    assert np.abs(seen[0] - normalize(twice)).max() <= one_level
    once = inference.fit(image, *map(geometry.taps, (24, 36), (48, 64)))
    assert np.abs(normalize(once) - normalize(twice)).max() > 8 * one_level, "or the test proves nothing"


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_resized_to_the_input_then_to_the_image_as_the_network_aligns_corners(align_corners):
    programs = inference.build(Sampler(align_corners), Protocol())
    image = pictures((24, 32))[0]
    found = assembled(programs, {}, image, views=[View((24, 32))], size=(30, 20))
    expected = resize(resize(Sampler.normalize(image)[:, ::4, ::4], (24, 32), align_corners), (30, 20), align_corners)
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())


@pytest.mark.parametrize("stride", [(16, 16), (11, 7), (1, 1)])
def test_windows_are_averaged_where_they_meet_and_mirrored_back(stride):
    """Every pixel's logit is the pixel itself: whatever windows see it, the image comes out."""

    class Mirror(Sampler):
        def apply(self, variables, images):
            return {"logits": images}

    programs = inference.Inference(Mirror(), Protocol("slide", (16, 16), stride), one_device())
    image = pictures((37, 26))[0]
    for mirrored in (False, True):
        found = assembled(programs, {}, image, views=[View((37, 26), mirrored)])
        np.testing.assert_allclose(found, Sampler.normalize(image), atol=1e-5)


def test_sizes_that_a_network_cannot_take_are_refused_before_it_is_trained():
    model = Segmenter(ResNet(18), VWFormerHead(5))
    slide = {"mode": "slide", "stride": (32, 32)}
    for options in ({"size_multiple": 64}, {"size_multiple": 128}, slide | {"size_multiple": 64, "window": (64, 128)}):
        check(model, ConfigDict(options))
    for options in ({}, {"size_multiple": 32}, slide | {"size_multiple": 64, "window": (64, 96)}):
        with pytest.raises(ValueError, match="eval.size_multiple is .* multiples of 64: set eval.size_multiple=64"):
            check(model, ConfigDict(options))
    check(Segmenter(ResNet(18), PSPHead(5)), ConfigDict({}))


@pytest.mark.parametrize("case", ["pipeline_ops"])
def test_input_sizes_are_the_references(golden, case):
    for name, (width, height) in golden(case).meta["rescale_size_wh"].items():
        image, scale = name.split("@")
        w, h = map(int, image.split("x"))
        assert input_size(h, w, tuple(map(int, scale.split(",")))) == (height, width), name
    assert input_size(5, 7, None) == (5, 7)


def test_the_test_resize_is_the_references_to_one_level(golden):
    """The reference resizes uint8 images in fixed point; ours differ by at most one of 256 levels."""
    case = golden("pipeline_ops")
    image = case["in/img_bgr_u8"][None]
    for item in case.meta["rescale"]:
        size = input_size(*image.shape[1:3], tuple(item["scale"]))
        assert list(size) == item["hw"]
        ours = inference.fit(image, *(geometry.taps(*lengths) for lengths in zip(image.shape[1:3], size, strict=True)))
        assert np.abs(ours[0].astype(np.int32) - case[f"res/img/{item['i']}"]).max() <= 1


@pytest.mark.parametrize(
    "length, window, stride, starts",
    [(130, 64, 43, (0, 43, 66)), (128, 64, 64, (0, 64)), (64, 64, 43, (0,)), (65, 64, 43, (0, 1)), (50, 64, 43, (0,))],
)
def test_windows_cover_an_axis_and_end_at_its_border(length, window, stride, starts):
    protocol = Protocol("slide", (window, 1), (stride, 1))
    assert protocol.windows(length, axis=0) == (min(window, length), starts)


def test_tiles_are_of_bounded_memory():
    programs = {k: inference.Inference(Sampler(num_classes=k), Protocol(), one_device()) for k in (11, 19, 150)}
    assert [(k, p.tile) for k, p in programs.items()] == [(11, 512), (19, 256), (150, 128)]
    assert programs[150].tiles(300) == [slice(0, 128), slice(128, 256), slice(256, 300)]
    assert programs[150].tiles(100) == [slice(0, 100)] and programs[150].tile_length(20) == 32


def test_options_not_given_have_their_defaults():
    assert protocol(ConfigDict({"batch_size": 2})) == Protocol() == protocol(defaults.get_config().eval)
    options = {"mode": "slide", "window": (64, 64), "stride": [43, 43], "scale": (96, 64), "tta": True}
    options["size_multiple"] = 64
    assert protocol(ConfigDict(options)) == Protocol("slide", (64, 64), (43, 43), True, (96, 64), 64)
    assert protocol(ConfigDict(options | {"mode": "whole"})).window is None


@pytest.mark.parametrize(
    "options, message",
    [
        *[({"scale": scale}, r"eval\.scale") for scale in ((512,), (0, 3), (1.5, 2), (1, 2, 3), 512, ("a", "b"))],
        ({"mode": "sliding"}, r"eval\.mode is 'sliding'; expected one of whole, slide"),
        ({"tta": "yes"}, r"eval\.tta is 'yes'"),
        *[({"size_multiple": value}, r"eval\.size_multiple is .*give a positive integer") for value in (0, 1.5, None)],
        ({"mode": "slide"}, r"eval\.window is None"),
        ({"mode": "slide", "window": (64, 64)}, r"eval\.stride is None"),
        ({"mode": "slide", "window": (64, 0), "stride": (1, 1)}, r"eval\.window is \(64, 0\); give two positive"),
        ({"mode": "slide", "window": (64, 64), "stride": (64, 65)}, r"eval\.stride .* is larger than eval\.window"),
        (
            {"mode": "slide", "window": (64, 65), "stride": (9, 9), "scale": (64, 32)},
            r"eval\.window \(64, 65\) is larger than allowed: .* longer than 64",
        ),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        protocol(ConfigDict(options))
