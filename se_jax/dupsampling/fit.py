"""Fits DUpsampling's P and W to the training labels of a config, before training (see `se_jax.dupsampling.factors`).

python -m se_jax.dupsample_fit --config=configs/camvid_dupsampling.py --workdir=DIR [--method=sgd] [--config.a.b=value]
python -m se_jax.main --config=configs/camvid_dupsampling.py --config.constants_from=DIR --workdir=DIR2

The labels are seen as evaluation sees them: fitted to config.eval.scale, without augmentation, windows counted from the
upper left corner. One pass then has every window once, the result depends on the data alone, and what is optimal is
the reconstruction of the very maps that are scored; random scales would mix in windows whose objects have other sizes.

Printed and saved, on the validation labels and at the evaluation's geometry: the mIoU of labels that went through P and
W, an upper bound of what a network can reach, and that of bilinear upsampling from the share of each class in a window.
Ignored pixels count in neither.
"""

import numpy as np
from absl import logging

from se_jax import constants, run
from se_jax.config.check import check
from se_jax.dupsampling import factors
from se_jax.dupsampling.windows import Windows, label_windows
from se_jax.evaluation import geometry, metrics
from se_jax.evaluation.protocol import input_size
from se_jax.losses.base import IGNORE
from se_jax.models import build
from se_jax.models.decoders.dupsampling import COLLECTION, PLACE, tile


def fit(config, workdir, method: str = "auto") -> dict:
    """Fits to config.data, writes the constants to `workdir`, and prints what came out.

    Returns:
      What is known of the fit: sizes, the reconstruction's error and the two mIoUs, as fractions.

    Raises:
      ValueError: an option that cannot be, data that cannot be used, or nothing but ignored pixels.
      FileExistsError: the workdir holds a fit. OSError: it cannot be written, or a file cannot be read.
    """
    import data_pipelines

    check(config)
    decoder = config.model.decoder
    if decoder.name != "dupsampling":
        raise ValueError(f"model.decoder.name is {decoder.name!r}; only 'dupsampling' has a decoder to fit")
    build(config.model).decoder.check(config.model.encoder.get("output_stride", 32), config.data.crop)
    workdir = run.make(workdir)
    if (found := workdir / run.CONSTANTS[0]).exists():
        raise FileExistsError(f"{found} exists; give another --workdir, or remove it")
    data = data_pipelines.build(config.data)
    classes = data.labels.num_classes
    if classes != config.model.num_classes:
        raise ValueError(f"model.num_classes is {config.model.num_classes}, but the data set has {classes} classes")

    windows = Windows(classes, decoder.ratio)
    for label in eval_labels(data.train, data.labels, config, "Reading training labels"):
        windows.add(label)
    values, counts = windows.arrays()
    moments = factors.Moments(values, counts, classes)
    if method == "auto":
        method = "dense" if moments.size <= factors.DENSE else "randomized"
    if method == "sgd":
        basis = factors.sgd(moments, decoder.codes, progress=_show)
    else:
        basis = factors.pca(moments, decoder.codes, dense=method == "dense", progress=_show)
    error = max(0.0, 1 - moments.captured(basis) / moments.variance)
    bounds = upper_bounds(basis, moments.mean, data, config)
    facts = {
        "classes": list(data.labels.names),
        "ratio": decoder.ratio,
        "codes": decoder.codes,
        "numbers": windows.size,
        "method": method,
        "data": config.data.name,
        "scale": config.eval.scale,
        "windows": int(counts.sum()),
        "distinct_windows": len(counts),
        "ignored_windows": windows.dropped,
        "error": error,
        "squared_error_a_pixel": error * moments.variance / decoder.ratio**2,
        **bounds,
    }
    fitted = {"kernel": np.float32(basis.T), "bias": np.float32(moments.mean)}
    for name in reversed(PLACE):
        fitted = {name: fitted}
    constants.save(workdir, {COLLECTION: fitted}, facts)
    print(table(facts))
    print(f"written to {workdir}; train with --config.constants_from={workdir}")
    return facts


def table(facts: dict) -> str:
    """The facts of a fit as text."""
    measured, classes = facts["classes_measured"], len(facts["classes"])
    over = "" if measured == classes else f" (mean of {measured} of {classes} classes)"
    return (
        f"{facts['windows']} windows of {facts['ratio']}x{facts['ratio']} pixels, {facts['distinct_windows']} kept, "
        f"{facts['ignored_windows']} without a label left out\n"
        f"{facts['numbers']} numbers a window, {facts['codes']} codes: error {100 * facts['error']:.2f} % of the "
        f"variance, {facts['squared_error_a_pixel']:.4f} a pixel\n"
        f"reconstruction mIoU of {facts['validation_images']} validation label maps{over}: "
        f"{100 * facts['miou']:.2f} % through the codes, {100 * facts['miou_bilinear']:.2f} % by bilinear upsampling"
    )


def eval_labels(source, labels, config, what: str):
    """Yields every label map of a source, uint8 [h, w], at the size in which evaluation shows its image to the network.

    Resized as labels are in training, by OpenCV's nearest neighbour.
    """
    import data_pipelines

    for index in range(len(source)):
        try:
            _, label = data_pipelines.read_example(source, labels, index)
        except data_pipelines.LabelError:
            raise
        except data_pipelines.DataError:
            if config.data.on_error == "stop":
                raise
            continue
        logging.log_every_n_seconds(logging.INFO, "%s: %d of %d", 5, what, index + 1, len(source))
        size = input_size(label.shape[0], label.shape[1], config.eval.scale)
        rows, columns = (np.arange(new) * old // new for new, old in zip(size, label.shape, strict=True))
        yield label[rows][:, columns]


def upper_bounds(basis: np.ndarray, mean: np.ndarray, data, config) -> dict:
    """mIoU on the validation labels of W P and of bilinear upsampling: miou, miou_bilinear, validation_images.

    classes_measured: how many classes the means are over, those that occur.
    """
    classes, ratio = data.labels.num_classes, config.model.decoder.ratio
    basis, mean = basis.astype(np.float32), mean.astype(np.float32)
    confusions = np.zeros((2, classes, classes), np.int64)
    count = 0
    for label in eval_labels(data.val, data.labels, config, "Reconstructing validation labels"):
        count += 1
        windows = label_windows(label, ratio)
        labelled = windows != IGNORE
        bilinear = tile(bilinear_ids(windows, classes)[None, :, :, None], ratio)[0]
        decoded = decoded_ids(windows.reshape(-1, ratio**2), basis, mean, classes).reshape(windows.shape)
        for confusion, ids in zip(confusions, (decoded, bilinear), strict=True):
            pairs = windows[labelled].astype(np.int64) * classes + ids[labelled]
            confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    found = [metrics.scores(confusion) for confusion in confusions]
    measured = int(np.isfinite(found[0]["iou"]).sum())
    miou, bilinear = (float(scores["miou"]) for scores in found)
    return {"miou": miou, "miou_bilinear": bilinear, "validation_images": count, "classes_measured": measured}


def decoded_ids(windows: np.ndarray, basis: np.ndarray, mean: np.ndarray, classes: int) -> np.ndarray:
    """Windows uint8 [n, pixels] through the codes: argmax over the classes of W P (v - mean) + mean, [n, pixels]."""
    found = np.zeros_like(windows)
    step = max(1, 2**24 // len(mean))
    for start in range(0, len(windows), step):
        part = slice(start, start + step)
        scores = factors.Centred(windows[part], mean).times(basis) @ basis.T + mean
        found[part] = scores.reshape(*windows[part].shape, classes).argmax(-1)
    return found


def bilinear_ids(windows: np.ndarray, classes: int) -> np.ndarray:
    """Windows uint8 [h, w, ratio^2] -> class ids [h * ratio, w * ratio]: the share of each class in every window,
    among the pixels that are not ignored, upsampled bilinearly from the windows' middles.
    """
    height, width, pixels = windows.shape
    counts = (windows[..., None] == np.arange(classes, dtype=np.uint8)).sum(2, dtype=np.float32)
    shares = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
    ratio = round(pixels**0.5)
    rows, columns = (
        geometry.blend(np.eye(side, dtype=np.float32), *geometry.taps(side, side * ratio)).astype(np.float32)
        for side in (height, width)
    )
    lines = np.tensordot(rows, shares, 1)  # [h * ratio, w, classes]
    return np.stack([(columns @ line).argmax(-1) for line in lines]).astype(np.uint8)


def _show(line: str) -> None:
    logging.log_every_n_seconds(logging.INFO, "Fitting: %s", 5, line)
