"""--dataset=tfds:NAME: image classification data sets that TFDS has prepared."""

import contextlib
import functools
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images.storage import RecordImages, content_digest, load_into_memory
from mlnt_tf.data.splits import Source, Split, hold_out_test
from mlnt_tf.files.cache import cached_scan

SCAN_BATCH = 256  # Records. Ctrl-C and SIGTERM wait for the end of a batch.
LABELS_VERSION = 2  # Raise this when `_scan_labels` changes: it invalidates cached scans.


def prepared_builder(name, config, *, title=None):
    """Returns the TFDS builder of a data set under --data_dir. Prepares it if --download is given.

    Args:
      name: str, the name in TFDS.
      config: `Config`.
      title: str, the name in errors. The default is `name`.

    Raises:
      UserError: the data set is not under --data_dir, or cannot be prepared.
    """
    import tensorflow_datasets as tfds

    try:
        with quiet_tfds():
            builder = tfds.builder(name, data_dir=config.data_dir or None)
        if not builder.data_path.exists() and config.download:
            builder.download_and_prepare()
    except Exception as error:  # TFDS raises many types, some of them its own.
        raise UserError(f"--dataset={config.dataset} cannot be prepared under --data_dir="
                        f"{config.data_dir} ({_first_line(error)}). Point --data_dir at a TFDS "
                        "directory that holds the data set.") from error
    if not builder.data_path.exists():
        data_dir = config.data_dir or pathlib.Path(builder.data_dir).parent.parent
        raise UserError(f"--data_dir={data_dir} lacks {title or name}: there is no "
                        f"{builder.data_path}. Point --data_dir at a TFDS directory that holds it, "
                        "or add --download.")
    return builder


def read_all(builder, split, columns):
    """Reads columns of a complete split into memory, files in order.

    Args:
      builder: a prepared TFDS builder.
      split: str, the name of the split.
      columns: iterable of str, names of features.

    Returns:
      dict of column to array [n, …]. It also has "tfds_id", bytes [n], the shard and row.

    Raises:
      UserError: the files cannot be read.
    """
    import tensorflow_datasets as tfds

    try:
        with quiet_tfds():
            dataset = builder.as_dataset(
                split=split, shuffle_files=False, read_config=tfds.ReadConfig(add_tfds_id=True),
                decoders=tfds.decode.PartialDecoding(dict.fromkeys(columns, True)))
            return _concatenate(dataset.batch(1024, num_parallel_calls=tf.data.AUTOTUNE))
    except Exception as error:  # TFDS raises many types, some of them its own.
        raise UserError(f"{builder.data_path} cannot be read ({_first_line(error)}). If it is "
                        "damaged, delete this directory and add --download.") from error


@contextlib.contextmanager
def quiet_tfds():
    """Silences TFDS, which logs every directory it reads and warns about its own deprecations."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_named(config):
    """Returns the `Source` of --dataset=tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION."""
    builder = prepared_builder(config.dataset.removeprefix("tfds:"), config)
    return source_from_builder(builder, config)


def source_from_builder(builder, config, *, true_label=None, record=None, added_to_train=()):
    """Returns the shards of a prepared builder as a `Source`.

    A data set without a test split, or without labels in it, is tested on its validation split, as
    is usual. If it has neither, a test split is held out of train, the same for every seed.

    Args:
      builder: a prepared TFDS builder.
      config: `Config`.
      true_label: str, the feature that holds the true label (-1 where unknown), or None.
      record: str, the feature that names the original file, or None to use shard and row.
      added_to_train: names of further splits to train on.

    Raises:
      UserError: the data set is not an image classification data set, or cannot be read.
    """
    features = builder.info.features
    image, label = image_and_label(builder, config)
    size = config.resized or features[image].shape[:2]
    if None in size:
        raise UserError(f"--dataset={config.dataset} has images of different sizes. Choose one "
                        "size with --image_size, for example --image_size=64.")
    splits = {}
    for split, stored_splits in _stored_splits(builder, added_to_train).items():
        splits[split] = _read_split(builder, stored_splits, image=image, label=label,
                                    true_label=true_label, record=record, size=size)
    if "validation" in splits and (splits["test"].labels < 0).all():
        logging.info("The test split has no labels. The validation split is used for testing.")
        splits["test"] = splits.pop("validation")
    for name, split in splits.items():
        num_unlabeled = (split.labels < 0).sum()
        if num_unlabeled:
            raise UserError(f"--dataset={config.dataset}: {num_unlabeled} of the {len(split)} "
                            f"examples of the {name} split have no label. Use a data set, or a "
                            "version of it, with labels.")
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out_test(splits["train"], config.test_fraction)
    return Source(tuple(features[label].names), **splits)


def image_and_label(builder, config):
    """Returns the names of the features that hold the image and the label.

    Raises:
      UserError: the data set has no image or no class label, or is not stored in TFRecord files.
    """
    import tensorflow_datasets as tfds

    image, label = builder.info.supervised_keys or ("image", "label")
    features = dict(builder.info.features)
    if not (isinstance(features.get(image), tfds.features.Image)
            and isinstance(features.get(label), tfds.features.ClassLabel)):
        raise UserError(f"--dataset={config.dataset} has the features {', '.join(features)}, but "
                        "training needs an image and a class label. Use an image classification "
                        "data set.")
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(f"--dataset={config.dataset} is stored as {builder.info.file_format.value}."
                        " Prepare it with the file format tfrecord.")
    return image, label


def first_encoded_images(builder, image, count):
    """Returns the first encoded images of the training split: list of bytes.

    Args:
      builder: a prepared TFDS builder.
      image: str, the feature that holds the image.
      count: int, the number of images.

    Raises:
      UserError: the files cannot be read.
    """
    import tensorflow_datasets as tfds

    parse = functools.partial(builder.info.features.deserialize_example,
                              decoders={image: tfds.decode.SkipDecoding()})
    files = [str(path) for path in builder.info.splits["train"].filepaths]
    try:
        records = tf.data.TFRecordDataset(files).take(count)
        return [parse(serialized)[image].numpy() for serialized in records]
    except tf.errors.OpError as error:
        raise UserError(f"{builder.data_path}: the shards of train cannot be read "
                        f"({_first_line(error)}). Prepare the data set again.") from error


def _stored_splits(builder, added_to_train):
    """Returns {split: the stored splits that it consists of}."""
    stored = {"train": ("train", *added_to_train)}
    has_test = "test" in builder.info.splits
    if has_test:
        stored["test"] = ("test",)
    if "validation" in builder.info.splits:
        stored["validation" if has_test else "test"] = ("validation",)
    return stored


def _read_split(builder, stored_splits, *, image, label, true_label, record, size):
    """Returns stored splits as one `Split`. Its images are streamed, unless they fit in memory."""
    import tensorflow_datasets as tfds

    infos = [builder.info.splits[name] for name in stored_splits]
    files = [str(path) for info in infos for path in info.filepaths]
    lengths = [length for info in infos for length in info.shard_lengths]
    parse = functools.partial(builder.info.features.deserialize_example,
                              decoders={image: tfds.decode.SkipDecoding()})
    try:
        columns = cached_scan(
            "labels", files, lambda: _scan_labels(files, parse, image, label, true_label, record),
            version=(LABELS_VERSION, image, label, true_label, record))
    except tf.errors.OpError as error:
        raise UserError(f"{builder.data_path}: the shards of {', '.join(stored_splits)} cannot be "
                        f"read ({_first_line(error)}). Prepare the data set again.") from error
    records = columns["records"] if record else _shard_and_row(files, lengths)
    images = RecordImages(files, lengths, lambda serialized: parse(serialized)[image], size=size)
    return Split(ids=np.arange(len(records)), labels=columns["labels"],
                 images=load_into_memory(images), records=records, true_labels=columns["true"],
                 digests=columns["digests"])


def _scan_labels(files, parse, image, label, true_label, record):
    """Reads the labels of all records, and a digest of each encoded image.

    Returns:
      {"labels": int32 [n], "true": int32 [n], "records": bytes [n], "digests": int64 [n]}.
    """
    def read_labels(serialized):
        example = parse(serialized)
        return {"labels": example[label],
                "true": example[true_label] if true_label else -1,
                "records": example[record] if record else "",
                "digests": content_digest(example[image])}

    examples = tf.data.TFRecordDataset(files, buffer_size=2**20).map(
        read_labels, num_parallel_calls=tf.data.AUTOTUNE)
    columns = _concatenate(examples.batch(SCAN_BATCH))
    return {"labels": columns["labels"].astype(np.int32), "true": columns["true"].astype(np.int32),
            "records": columns["records"].astype("S"), "digests": columns["digests"]}


def _concatenate(dataset):
    """Returns a data set of batches, dicts of arrays, as one dict of arrays."""
    batches = list(dataset.as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _shard_and_row(files, lengths):
    """Returns the name of each record, bytes [n], such as b"mine-train.tfrecord-00000-of-1__7"."""
    return np.array([f"{path.rpartition('/')[2]}__{row}".encode()
                     for path, length in zip(files, lengths) for row in range(length)])


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
