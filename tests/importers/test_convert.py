"""The import table: whole segmentors, and every way in which a checkpoint can fail to fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_jax.importers import adapt, export_weights, import_weights
from se_jax.importers.convert import match
from se_jax.models import FCNHead, PSPHead, ResNet, Segmenter
from tests.importers import recorded


@pytest.fixture(scope="module")
def network():
    """A network of the shape of the reference's tiny training case, and its variables' shapes."""
    model = Segmenter(
        ResNet(depth=18, width=8),
        PSPHead(num_classes=5, channels=16),
        FCNHead(num_classes=5, channels=8, in_index=2, num_convs=1, concat_input=False),
    )
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def state_dict():
    """Tensors of the names and shapes of the reference's segmentor."""
    return recorded.tensors("segmentor_mmseg")


def test_whole_segmentor(network, state_dict):
    _, template = network
    variables = import_weights(network[0], state_dict, template)
    assert jax.tree.structure(variables) == jax.tree.structure(template)
    kernel = variables["params"]["encoder"]["layer2_0"]["downsample"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0].T, state_dict["backbone.layer2.0.downsample.0.weight"][:, :, 0, 0])
    for torch_name, ours in (("decode_head", "decoder"), ("auxiliary_head", "auxiliary")):
        np.testing.assert_array_equal(
            variables["params"][ours]["conv_seg"]["bias"], state_dict[f"{torch_name}.conv_seg.bias"]
        )
    np.testing.assert_array_equal(
        variables["batch_stats"]["decoder"]["bottleneck"]["block"]["bn"]["var"],
        state_dict["decode_head.bottleneck.bn.running_var"],
    )


def test_step_counters_and_classifiers_are_skipped(network, state_dict):
    extra = {"backbone.stem.1.num_batches_tracked": np.array(7), "backbone.fc.weight": np.zeros((10, 4))}
    import_weights(network[0], state_dict | extra, network[1])


def test_other_collections_pass_through(network, state_dict):
    equalizer = {"decoder": {"bottleneck": {"ppm": {"0_input": {"mean": np.ones(4)}}}}}
    variables = import_weights(network[0], state_dict, {**network[1], "equalizer": equalizer})
    assert variables["equalizer"]["decoder"]["bottleneck"]["ppm"]["0_input"]["mean"].sum() == 4


def test_every_difference_is_named(network, state_dict):
    state = dict(state_dict)
    state["decode_head.conv_seg.weight"] = np.zeros((7, 16, 1, 1), np.float32)
    state["backbone.layer9.0.conv1.weight"] = np.zeros((4, 4, 3, 3), np.float32)
    del state["auxiliary_head.convs.0.bn.running_mean"]
    with pytest.raises(ValueError) as error:
        import_weights(network[0], state, network[1])
    message = str(error.value)
    assert "decode_head.conv_seg.weight is (7, 16, 1, 1) in the checkpoint, (5, 16, 1, 1) in this network" in message
    assert "init_skip=classifier" in message
    assert "backbone.layer9.0.conv1.weight (4, 4, 3, 3) has no place" in message
    assert "no tensor auxiliary_head.convs.0.bn.running_mean for batch_stats/auxiliary/convs_0/bn/mean (8,)" in message
    assert "3 differences" in message


@pytest.mark.parametrize(("channels", "bgr"), [(3, True), (1, False), (4, True)])
def test_first_convolutions_of_other_channels(channels, bgr):
    """Converted where the image has other channels than red, green and blue, turned round for a BGR network."""
    encoder = ResNet(18, width=8)
    shapes = {n: jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 32, 32, n))) for n in (3, channels)}
    state = export_weights(encoder, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes[3]))
    state["stem.0.weight"] = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    found = match(encoder, state, shapes[channels], bgr=bgr)
    kernel = found.variables["params"]["stem_0"]["conv"]["kernel"].transpose(3, 2, 0, 1)
    rgb = state["stem.0.weight"][:, ::-1] if bgr else state["stem.0.weight"]
    expected = rgb if channels == 3 else adapt.convert_channels(rgb, channels)
    np.testing.assert_array_equal(kernel, expected)
    assert list(found.adapted) == ["params/stem_0/conv/kernel"]


@pytest.mark.parametrize("variant", ["v1b", "v1c", "v1d"])
@pytest.mark.parametrize("depth", [18, 50])
def test_names_of_every_resnet(variant, depth):
    """The reference's tensor names, written down from its layout, fill every variable."""
    encoder = ResNet(depth=depth, variant=variant, width=8)
    template = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    state = {}

    def add(scope, path, conv, norm):
        module = template["params"]
        statistics = template["batch_stats"]
        for name in path:
            module, statistics = module[name], statistics[name]
        kh, kw, inputs, outputs = module["conv"]["kernel"].shape
        state[f"{scope}{conv}.weight"] = np.zeros((outputs, inputs, kh, kw), np.float32)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{scope}{norm}.{name}"] = np.zeros(statistics["bn"]["mean"].shape, np.float32)

    if variant == "v1b":
        add("", ["stem_0"], "conv1", "bn1")
    else:
        for i in range(3):
            add("stem.", [f"stem_{i}"], str(3 * i), str(3 * i + 1))
    for block, module in template["params"].items():
        if not block.startswith("layer"):
            continue
        scope = block.replace("_", ".") + "."
        for name in module:
            if name == "downsample":
                first = 1 if variant == "v1d" else 0
                add(f"{scope}downsample.", [block, name], str(first), str(first + 1))
            else:
                add(scope, [block, name], name, name.replace("conv", "bn"))
    variables = import_weights(encoder, state, template)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(variables))
