"""Evaluation by windows in even steps, as EoMT's authors do it: sizes, windows, scores, classes."""

import jax
import numpy as np
import pytest

from se_jax.evaluation import inference
from se_jax.evaluation.program import program
from se_jax.evaluation.protocol import Protocol, protocol
from se_jax.importers import import_weights
from tests.conftest import assert_close_to_reference
from tests.evaluation.test_inference import assembled
from tests.models.test_eomt import make, template


def test_scores_of_odd_images_are_the_authors(golden):
    case = golden("eomt_infer", "whole")
    meta, tensors = case.meta, case.group("sd")
    size = tuple(meta["img_size"])
    model = make({"size": size, "queries": len(tensors["q.weight"]), "blocks": 1}, tensors)
    variables = import_weights(model, tensors, template(model, size))
    given = Protocol("spread", size)
    programs = inference.build(model, given)
    for i, (height, width) in enumerate(meta["sizes"]):
        image = case[f"{i}/in"].transpose(1, 2, 0)
        seen = given.seen_size((height, width))
        assert list(seen) == meta["resized"][i]
        windows, starts = given.windows(max(seen), int(seen[1] >= seen[0]))
        assert [[start, start + windows] for start in starts] == meta["origins"][i]
        crops = programs._as_seen(image[None])[0]
        for start, crop in zip(starts, case[f"{i}/crops"], strict=True):
            rows, columns = (
                (slice(start, start + 64), slice(64)) if seen[0] > seen[1] else (slice(64), slice(start, start + 64))
            )
            np.testing.assert_array_equal(crops[rows, columns], crop.transpose(1, 2, 0))
        scores = assembled(programs, variables, image[None])[0]
        assert_close_to_reference(scores, case[f"{i}/out"].transpose(1, 2, 0))
        np.testing.assert_array_equal(scores.argmax(-1), case[f"{i}/pred"])
    assert programs.compilations["network"] == 1
    # the same as one traced program, whose images differ by a level in places
    traced = jax.jit(program(model, variables, given, (height, width)))(image[None])[0]
    assert np.mean(traced != case[f"{i}/pred"]) < 0.01


def test_sizes_are_rounded_to_even_and_windows_reach_the_end():
    given = Protocol("spread", (512, 512))
    assert given.seen_size((1024, 1025)) == (512, 512)  # 512.5
    assert given.seen_size((1024, 1027)) == (512, 514)  # 513.5
    for length in range(512, 3073, 7):
        window, starts = given.windows(length, 0)
        assert starts[0] == 0 and starts[-1] == length - window
        assert all(0 < b - a <= window for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs two equal positive integers"),
        ({"window": (64, 96)}, "needs two equal positive integers"),
        ({"window": (64, 64), "tta": True}, "belong to other modes"),
        ({"window": (64, 64), "scale": (64, 64)}, "belong to other modes"),
    ],
)
def test_options_of_other_modes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        protocol({"mode": "spread", **options})
