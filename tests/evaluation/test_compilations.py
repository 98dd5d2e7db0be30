"""What an evaluation says that it will compile, and what compiling ahead of the devices does."""

import jax
import numpy as np
import pytest

from se_jax import parallel
from se_jax.evaluation import compilations, inference
from se_jax.evaluation.protocol import Protocol
from se_jax.models import FCNHead, ResNet, Segmenter
from tests import tiny

MANY = [(300 + 7 * i, 500) for i in range(30)] + [(300, 500)] * 3


def test_networks_are_counted_and_cheaper_ways_are_told():
    told = compilations.announcement(Protocol(scale=(2048, 512)), MANY)
    count = len({(512, round(512 * 500 / side)) if side < 500 else (round(512 * side / 500), 512) for side, _ in MANY})
    assert told.startswith(f"33 images of 30 sizes: {count} networks to compile (")
    assert "eval.mode='slide', eval.window=(512, 512), eval.stride=(341, 341) needs 1;" in told
    rounded = {
        tuple(-(-side // 64) * 64 for side in size) for size in compilations.windows(Protocol(scale=(2048, 512)), MANY)
    }
    assert f"eval.size_multiple=64 needs {len(rounded)};" in told
    assert len(rounded) < 10 < count


@pytest.mark.parametrize(
    "protocol, sizes, expected",
    [
        (Protocol(), [(4, 4)] * 9, "9 images of 1 sizes: 1 networks to compile"),
        (
            Protocol("slide", (64, 64), (43, 43), scale=(2048, 512)),
            MANY,
            "33 images of 30 sizes: 1 networks to compile",
        ),
        (Protocol(size_multiple=64), MANY, "33 images of 30 sizes: 4 networks to compile"),
    ],
)
def test_nothing_else_is_told_where_little_is_to_compile(protocol, sizes, expected):
    assert compilations.announcement(protocol, sizes) == expected


def test_what_is_known_is_not_counted():
    assert compilations.announcement(Protocol(), [(4, 4), (5, 5)], known={(4, 4): None}).endswith(
        ": 1 networks to compile"
    )


def test_compiling_ahead_changes_nothing_but_the_time():
    model = Segmenter(ResNet(10, width=4), FCNHead(3, channels=4, num_convs=1, concat_input=False))
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    variables = jax.device_put(tiny.init(model, 32), parallel.replicated(mesh))
    image = tiny.images(1, 32)
    expected = inference.Inference(model, Protocol(), mesh).class_ids(variables, image)
    programs = inference.Inference(model, Protocol(), mesh)
    (program,) = programs.compile_ahead(variables, 1, [(32, 32), (32, 32)])
    np.testing.assert_array_equal(programs.class_ids(variables, image), expected)
    assert program.done() and programs.compilations["network"] == 1
    assert not programs.compile_ahead(variables, 1, [(32, 32)])
    on_host = jax.device_get(variables)  # what lies elsewhere takes the usual way
    np.testing.assert_array_equal(programs.class_ids(on_host, image), expected)
    assert programs.compilations["network"] == 2
