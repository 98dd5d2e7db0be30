"""Whole-image evaluation: the reference's numbers, every image once, the same counts on any number of devices."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from data_pipelines.labels import LabelSpec
from data_pipelines.sources import Source
from se_jax import parallel
from se_jax.config import recipes
from se_jax.evaluation import evaluator as evaluate
from se_jax.evaluation import inference
from se_jax.evaluation.boundary_iou import BoundaryIoU
from se_jax.evaluation.image_table import ImageTable
from se_jax.evaluation.metrics import MEANS, Accuracy, ConfusionMatrix, confusion_matrix, numbers, scores
from se_jax.evaluation.protocol import Protocol, protocol
from se_jax.evaluation.worst_images import WorstImages
from se_jax.models import FCNHead, ResNet, Segmenter, build
from tests import tiny
from tests.commands import main_of

CLASSES = 4
LABELS = LabelSpec.create(("a", "b", "c", "d"), ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)))


class MixedSource(Source):
    """Pictures of several sizes, kept in memory."""

    def __init__(self, sizes):
        super().__init__("mixed")
        random = np.random.default_rng(0)
        self.images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
        self.labels = [random.choice(np.array([0, 1, 2, 255], np.uint8), size) for size in sizes]  # class 3: nowhere

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = self.images[index], self.labels[index]
        head = b" %d %d 255\n" % (label.shape[1], label.shape[0])
        return b"P6" + head + image.tobytes(), b"P5" + head + label.tobytes(), f"mixed {index}"

    def size(self, index):
        return self.labels[index].shape


def shapes_of(model):
    """Shapes of a network's variables; quicker than drawing them."""
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def network():
    """A tiny network with random weights, large enough for its predictions to vary."""
    model = Segmenter(
        ResNet(**tiny.ENCODER | {"width": 8}), FCNHead(num_classes=CLASSES, channels=8, num_convs=1, concat_input=False)
    )
    random = np.random.default_rng(1)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return random.normal(0, np.prod(leaf.shape[:3]) ** -0.5, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes_of(model))


@pytest.fixture(scope="module")
def source():
    return MixedSource([(24, 32)] * 5 + [(32, 24)] * 4 + [(24, 32)] * 2)


def config(batch_size=3, scale=None):
    return ConfigDict({"batch_size": batch_size, "scale": scale, "per_image": True, "boundary_iou": True})


@pytest.fixture(scope="module")
def counted(network, source):
    """What is found on one device."""
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    return evaluate.evaluate(*network, source, LABELS, config(), mesh)


@pytest.fixture(scope="module")
def predictions(network, source):
    """Class ids of every image, one by one."""
    programs = inference.build(network[0], Protocol())
    return [programs.class_ids(network[1], image[None])[0] for image in source.images]


def test_every_labelled_pixel_is_counted_once(counted, source):
    counted = counted.totals[0]
    labels = np.concatenate([label.ravel() for label in source.labels])
    assert counted.dtype == np.int64
    np.testing.assert_array_equal(counted.sum(1), [np.sum(labels == k) for k in range(CLASSES)])
    assert (counted.sum(0) > 0).sum() >= 2  # the network does not say one class everywhere


def test_it_is_the_sum_over_images_one_by_one(predictions, counted, source):
    total = sum(
        np.asarray(confusion_matrix(mask, label, CLASSES))
        for mask, label in zip(predictions, source.labels, strict=True)
    )
    np.testing.assert_array_equal(total, counted.totals[0])


def test_the_worst_images_are_those_that_one_finds_by_looking_at_all(predictions, counted, source):
    table = counted.result()["worst"]
    for k, name in enumerate(LABELS.names):
        all_of_them = []
        for i, (mask, label) in enumerate(zip(predictions, source.labels, strict=True)):
            kept = label != 255
            right, either = (np.sum(f(label == k, mask == k) & kept) for f in (np.logical_and, np.logical_or))
            if either:
                all_of_them.append((right / either, int(right - either), i))
        expected = [(i, score, -wrong) for score, wrong, i in sorted(all_of_them)[:3]]
        assert [(entry["index"], entry["iou"], entry["wrong"]) for entry in table[name]] == expected
        assert all(entry["image"] == f"mixed {entry['index']}" for entry in table[name])
    assert len(table["a"]) == 3


def test_the_table_of_images_holds_what_one_finds_image_by_image(predictions, counted, source):
    head, *rows = counted.tables()["per_image"]
    assert head == ["image", "pixels", "miou", "accuracy", "iou/a", "iou/b", "iou/c", "iou/d"]
    assert [row[0] for row in rows] == [f"mixed {i}" for i in range(len(source))]  # no filler, in order
    for row, mask, label in zip(rows, predictions, source.labels, strict=True):
        found = scores(confusion_matrix(mask, label, CLASSES))
        expected = [np.sum(label != 255), found["miou"], found["aacc"], *found["iou"]]
        np.testing.assert_allclose([float(cell or "nan") for cell in row[1:]], expected, atol=1e-6)


def test_an_image_that_could_not_be_read_has_no_row():
    metric = ImageTable(("a", "b"), str, 3)
    total = metric.add(metric.empty(), np.array([[[1, 0], [3, 0]], [[0, 0], [0, 0]]]), np.array([2, -1]))
    assert metric.tables(total)["per_image"][1:] == [["2", 2, "0.333333", "0.500000", "0.333333", ""]]
    total = metric.add(total, np.zeros((1, 2, 2), int), np.array([0]))  # one without a labelled pixel has
    assert metric.tables(total)["per_image"][1] == ["0", 0, "", "", "", ""]


def test_boundaries_are_of_whole_images(network, predictions, counted, source):
    metric = BoundaryIoU(LABELS.names)
    jitted = jax.jit(metric.update_whole)

    def expected(i):
        mask, label = (
            np.pad(x, [(0, 32 - side) for side in x.shape], constant_values=255)
            for x in (predictions[i], source.labels[i])
        )
        return jitted(metric.init(1), mask[None], label[None], np.array(source.size(i)))

    np.testing.assert_array_equal(counted.totals[-1], sum(np.asarray(expected(i)) for i in range(len(source))))
    assert counted.result()["boundary_miou"] > 0 and "BIoU" in evaluate.table(counted.result())

    class Tiled(inference.Inference):
        """Scores of a known prediction, in tiles of 8 x 8."""

        def scores(self, variables, images, views=None, size=None):
            for rows in self.tiles(images.shape[1]):
                for columns in self.tiles(images.shape[2]):
                    yield rows, columns, jax.nn.one_hot(predictions[0][None, rows, columns], CLASSES)

    programs = Tiled(network[0], Protocol(), parallel.make_mesh(devices=jax.devices()[:1]))
    programs.tile = 8
    batch = {"image": source.images[0][None], "label": source.labels[0][None], "index": np.array([0], np.int32)}
    np.testing.assert_array_equal(programs.count((metric,), None, batch)[1][0], expected(0))


@pytest.mark.parametrize("devices, batch_size", [(8, 8), (8, 3), (1, 11)])
def test_devices_and_batch_size_change_nothing(network, source, counted, devices, batch_size):
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    found = evaluate.evaluate(*network, source, LABELS, config(batch_size), mesh)
    for ours, theirs in zip(found.totals, counted.totals, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert found.images == 11 and found.fillers == sum(-count % max(batch_size, devices) for count in (7, 4))


def test_a_second_evaluation_compiles_nothing(network, source, counted):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    programs = inference.build(network[0], Protocol(), mesh)
    before = dict(programs.compilations)
    assert before["network"] >= 2  # the two image sizes
    evaluate.evaluate(*network, source, LABELS, config(), mesh)
    assert programs.compilations == before


@pytest.mark.parametrize("devices, batch_size", [(8, 8), (1, 1)])
def test_windows_and_views_count_every_pixel_once(network, devices, batch_size):
    """One size of windows in all views: one compilation of the network."""
    source = MixedSource([(24, 32), (32, 24), (24, 32)])
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    options = ConfigDict({"mode": "slide", "window": (12, 12), "stride": (9, 9), "tta": True, "batch_size": batch_size})
    found = evaluate.evaluate(*network, source, LABELS, options, mesh).totals[0]
    programs = inference.build(network[0], protocol(options))
    variables = jax.device_put(network[1], parallel.replicated(programs.mesh))
    expected = sum(
        np.asarray(confusion_matrix(programs.class_ids(variables, image[None]), label[None], CLASSES))
        for image, label in zip(source.images, source.labels, strict=True)
    )
    np.testing.assert_array_equal(found, expected)
    assert programs.compilations["network"] == 1


def test_another_number_of_classes_is_refused(network, source):
    labels = LabelSpec.create(("a", "b"), ((255, 0, 0), (0, 255, 0)))
    with pytest.raises(ValueError, match="network has 4 classes, but the data set has 2"):
        evaluate.evaluate(*network, source, labels, config(), parallel.make_mesh())


def test_result_and_table():
    confusion = np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    metric = ConfusionMatrix(("sky", "road", "car"))
    outcome = evaluate.Evaluation((metric,), (confusion,), images=2).result(step=3)
    assert numbers(outcome) == {key: outcome[key] for key in MEANS} and outcome["images"] == 2
    assert outcome["iou"] == {"sky": 0.75, "road": 0.0, "car": None} and outcome["step"] == 3
    assert outcome["acc"]["road"] is None and outcome["miou"] == 0.375
    assert json.loads(json.dumps(outcome, allow_nan=False)) == outcome
    table = evaluate.table(outcome)
    assert "75.00" in table and "37.50" in table and len({len(line) for line in table.splitlines()}) == 1
    means = [line.rstrip() for line in table.splitlines() if line.startswith("mean")]
    assert means == ["mean of 2 of 3 classes    37.50", "mean of 1 of 3 classes             75.00"]
    whole = metric.compute(np.eye(3, dtype=int))
    assert [line.split() for line in evaluate.table(whole).splitlines()][-2] == ["mean", "100.00", "100.00"]


def test_samples_hold_image_truth_and_prediction(network, source, tmp_path):
    model, variables = network
    mesh = parallel.make_mesh(devices=jax.devices())
    files = {tmp_path / "s.npz": evaluate.spread(11, 3), tmp_path / "w.npz": [5, 5]}
    evaluate.write_pictures(files, model, variables, source, LABELS, config(), mesh)
    with np.load(tmp_path / "w.npz") as found:
        assert [n for n in found.files if n.startswith("image_")] == ["image_5"]
    with np.load(tmp_path / "s.npz") as found:
        assert [n for n in found.files if n.startswith("image_")] == ["image_0", "image_5", "image_10"]
        np.testing.assert_array_equal(found["image_5"], source.images[5])
        np.testing.assert_array_equal(found["truth_5"], source.labels[5])
        expected = inference.build(model, Protocol()).class_ids(variables, source.images[5][None])[0]
        np.testing.assert_array_equal(found["prediction_5"], expected)
        assert found["names"].tolist() == list(LABELS.names)


def test_run_prints_a_table_and_writes_the_result(tmp_path, capsys):
    config = recipes.load("shapes_aspp")
    config.model.encoder.update(depth=10, width=8)
    config.data.update(num_train=1, num_val=2, image_size=(32, 32), crop=(32, 32))
    config.eval.per_image = True
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes_of(build(config.model)))
    evaluate.evaluate_run(config, variables, tmp_path, "last")
    printed = capsys.readouterr().out
    outcome = json.loads((tmp_path / "evaluation.json").read_text())
    assert outcome["images"] == 2 and outcome["checkpoint"] == "last" and len(outcome["iou"]) == 9
    assert outcome["protocol"] == dataclasses.asdict(Protocol())
    assert all(name in printed for name in (*outcome["iou"], "mean", "network 1", "evaluation.json", "evaluation.html"))
    with np.load(tmp_path / "evaluation_confusion.npz") as arrays:
        assert ConfusionMatrix(tuple(arrays["names"])).compute(arrays["confusion"])["iou"] == outcome["iou"]
        pixels = arrays["confusion"].sum()
    with np.load(tmp_path / "evaluation_worst.npz") as arrays:
        shown = WorstImages(tuple(outcome["iou"]), str).examples(outcome)
        assert {f"image_{i}" for i in shown} == {n for n in arrays.files if n.startswith("image_")} != set()
    with (tmp_path / "evaluation_per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and sum(int(row["pixels"]) for row in rows) == pixels
    assert outcome["fillers"] == 6  # eight devices share the two images
    assert not (tmp_path / "report.html").exists()


def test_the_list_of_metrics_is_the_callers(network, source, counted):
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    found = evaluate.evaluate(*network, source, LABELS, config(), mesh, metrics=[Accuracy()])
    assert found.result()["accuracy"] == pytest.approx(counted.result()["aacc"], abs=1e-6)
    assert "miou" not in found.result()


@pytest.mark.parametrize("arguments, message", [((), "--workdir=DIR"), (("--workdir=nowhere",), "nowhere/config.json")])
def test_the_command_line_names_a_missing_workdir(monkeypatch, arguments, message):
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    with pytest.raises(SystemExit, match=message):
        main_of("se_jax.evaluate")(["evaluate", *arguments])
