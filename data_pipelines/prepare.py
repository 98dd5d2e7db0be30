"""Writes a published data set as shards, a few big files: for a network drive, or to be copied to a bucket.

python -m data_pipelines.prepare --dataset=cityscapes --source=DIR --data_dir=DIR [--format=tfrecord]

Writes all official splits that are there, every file byte for byte after decoding it once, so what is written can be
trained on. Then config.data.dir is the data_dir, and the batches are those from the files. A run that fails leaves
nothing behind.
"""

import argparse
import os
import signal
import sys
import tempfile

import tensorflow as tf

from data_pipelines import OFFICIAL
from data_pipelines.labels import DataError
from data_pipelines.records import FORMATS, array_record_reader, is_prepared, prepared_directory


def prepare(name: str, source: str, data_dir: str, record_format: str = FORMATS[0]) -> str:
    """Writes the shards of the data set OFFICIAL[name] and returns their directory.

    Raises DataError naming directory or file: `source` is not the data set or not whole, an annotation holds ids that
    must not occur, `data_dir` holds the data set already, cannot be written to, or has too little space.
    """
    import tensorflow_datasets as tfds  # only now: it takes seconds

    from data_pipelines.builder import Segmentation

    dataset, source, data_dir = OFFICIAL[name], os.fspath(source), os.fspath(data_dir)
    directory = prepared_directory(data_dir, dataset)
    if is_prepared(data_dir, dataset):
        raise DataError(f"{directory} is there already. Remove it first if it is to be written anew.")
    if record_format == "array_record":
        array_record_reader(directory)
    dataset.root(source)
    existed = tf.io.gfile.exists(data_dir)
    for left in _incomplete(os.path.dirname(directory)):
        print(f"{left} was left by a run that was killed: remove it, unless one is still at work there")
    try:
        with tempfile.TemporaryDirectory() as downloads:  # which stays empty
            builder = Segmentation(config=dataset.files, data_dir=data_dir)
            builder.download_and_prepare(
                file_format=record_format,
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False),
            )
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"{directory} cannot be written: {error}") from error
    finally:
        if not is_prepared(data_dir, dataset):
            _remove_empty(data_dir, os.path.dirname(directory), existed)
    return directory


def _incomplete(parent: str) -> list[str]:
    """TFDS's temporary directories in `parent`."""
    names = tf.io.gfile.listdir(parent) if tf.io.gfile.isdir(parent) else []
    return [os.path.join(parent, name) for name in names if name.startswith("incomplete.")]


def _remove_empty(data_dir: str, parent: str, existed: bool) -> None:
    """Removes the directories that TFDS made around its own temporary one, which it has removed."""
    if tf.io.gfile.isdir(parent) and not tf.io.gfile.listdir(parent):
        tf.io.gfile.rmtree(parent)
    base = os.path.dirname(parent)
    if tf.io.gfile.isdir(base) and {name.rstrip("/") for name in tf.io.gfile.listdir(base)} <= {".config"}:
        tf.io.gfile.rmtree(base)
    if not existed and tf.io.gfile.isdir(data_dir) and not tf.io.gfile.listdir(data_dir):
        tf.io.gfile.rmtree(data_dir)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="data_pipelines.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", required=True, choices=OFFICIAL)
    parser.add_argument("--source", required=True, help="directory of the data set as published")
    parser.add_argument("--data_dir", required=True, help="directory for the shards; copy it to a bucket then")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by an exception, which cleans up
    try:
        directory = prepare(options.dataset, options.source, options.data_dir, options.format)
    except DataError as error:
        sys.exit(f"data_pipelines.prepare: {error}")
    print(f"{directory} is written; --config.data.name={options.dataset} --config.data.dir={options.data_dir} reads it")


if __name__ == "__main__":
    main(sys.argv[1:])
