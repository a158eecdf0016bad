"""Image classification data sets that TFDS has prepared."""

import contextlib
import functools
import pathlib

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images.storage import RecordImages, load_into_memory
from mlnt_tf.data.splits import TEST_SALT, Source, Split, hold_out
from mlnt_tf.files.cache import cached_scan

LABELS_VERSION = 1  # of what is remembered of shards: to raise where other arrays are


def prepared_builder(name, config, *, title=None):
    """The TFDS builder of a set that lies under --data_dir, or is downloaded if --download is given.

    Raises:
      UserError: it is not there.
    """
    import tensorflow_datasets as tfds

    try:
        with quiet_tfds():
            builder = tfds.builder(name, data_dir=config.data_dir or None)
        if not builder.data_path.exists() and config.download:
            builder.download_and_prepare()
    except Exception as error:
        raise UserError(f"--dataset={config.dataset} cannot be prepared under --data_dir={config.data_dir!r}: "
                        f"{first_line(error)}; point --data_dir at a TFDS directory that holds it.") from error
    if not builder.data_path.exists():
        raise UserError(f"--data_dir={config.data_dir or pathlib.Path(builder.data_dir).parent.parent!s} lacks {title or name}: looked "
                        f"for {builder.data_path}; point --data_dir at a TFDS directory that holds it, or add "
                        "--download.")
    return builder


def read_all(builder, split, columns, config):
    """Columns of a whole split, files in order, and "tfds_id": a dictionary of arrays."""
    import tensorflow_datasets as tfds

    try:
        with quiet_tfds():
            dataset = builder.as_dataset(
                split=split, shuffle_files=False, read_config=tfds.ReadConfig(add_tfds_id=True),
                decoders=tfds.decode.PartialDecoding(dict.fromkeys(columns, True)))
            batches = list(dataset.batch(1024, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator())
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    except Exception as error:
        raise UserError(f"--data_dir={config.data_dir}: {builder.data_path} cannot be read ({first_line(error)}); "
                        "remove it and add --download.") from error


@contextlib.contextmanager
def quiet_tfds():
    """TFDS tells of every directory it looks into, and of its own old names: not here."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def load_named(config):
    """--dataset=tfds:NAME, any image classification set of TFDS (NAME, NAME/CONFIG, NAME:VERSION)."""
    builder = prepared_builder(config.dataset.removeprefix("tfds:"), config)
    return source_from_builder(builder, config)


def source_from_builder(builder, config, *, true_label=None, record=None, added_to_train=()):
    """A Source of a prepared builder's shards.

    Without a test split the validation split is the test split, as usual; without both a share of train is set apart,
    the same for every seed.

    Args:
      true_label: the feature that holds the true label, -1 where unknown, or None.
      record: the feature that leads back to the original, or None for shard and row.
      added_to_train: names of more splits to train on.

    Raises:
      UserError: it has no image and label to classify by.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = builder.info.supervised_keys or ("image", "label")
    if not (isinstance(dict(features).get(image), tfds.features.Image)
            and isinstance(dict(features).get(label), tfds.features.ClassLabel)):
        raise UserError(f"--dataset={config.dataset} has the features {', '.join(features)}: an image classification set "
                        "has an image and a class label.")
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(f"--dataset={config.dataset} is stored as {builder.info.file_format.value}: prepare it as tfrecord.")
    size = config.resized or features[image].shape[:2]
    if None in size:
        raise UserError(f"--dataset={config.dataset} has images of any size: give one in --image_size, as "
                        "--image_size=64.")
    names, there = {"train": ("train", *added_to_train)}, builder.info.splits
    if "test" in there:
        names["test"] = ("test",)
    if "validation" in there:
        names["validation" if "test" in there else "test"] = ("validation",)
    read = functools.partial(record_split, builder, image=image, label=label, true_label=true_label, record=record,
                             size=size)
    splits = {name: read(stored) for name, stored in names.items()}
    if "validation" in splits and (splits["test"].labels < 0).all():
        logging.info("the test split has no labels: the validation split takes its place")
        splits["test"] = splits.pop("validation")
    for name, split in splits.items():
        if (split.labels < 0).any():
            raise UserError(f"--dataset={config.dataset}: {(split.labels < 0).sum()} of the {len(split)} examples of its "
                            f"{name} split have no label: take a data set, or a version of it, that has them.")
    if "test" not in splits:
        splits["train"], splits["test"] = hold_out(splits["train"], fraction=config.test_fraction, seed=0,
                                                   salt=TEST_SALT)
        logging.info("no test split: %d of the training examples are set apart, the same for every seed",
                     len(splits["test"]))
    return Source(tuple(features[label].names), **splits)


def record_split(builder, names, *, image, label, true_label, record, size):
    """One split, of one stored split or more, as a Split whose images are streamed, or in memory if they are few."""
    import tensorflow_datasets as tfds

    infos = [builder.info.splits[name] for name in names]
    files = [str(path) for info in infos for path in info.filepaths]
    lengths = [length for info in infos for length in info.shard_lengths]
    parse = functools.partial(builder.info.features.deserialize_example,
                              decoders={image: tfds.decode.SkipDecoding()})

    def find_labels():
        def labels(serialized):
            example = parse(serialized)
            return {"labels": example[label], "true": example[true_label] if true_label else -1,
                    "records": example[record] if record else ""}

        parsed = tf.data.TFRecordDataset(files, buffer_size=2**20).map(labels, num_parallel_calls=tf.data.AUTOTUNE)
        batches = list(parsed.batch(4096).as_numpy_iterator())
        found = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        return {"labels": found["labels"].astype(np.int32), "true": found["true"].astype(np.int32),
                "records": found["records"].astype("S")}

    try:
        found = cached_scan("labels", files, find_labels, of=(LABELS_VERSION, label, true_label, record))
    except tf.errors.OpError as error:
        raise UserError(f"{builder.data_path}: the shards of {', '.join(names)} cannot be read ({first_line(error)}): "
                        "prepare the data set again.") from error
    records = found["records"] if record else np.array([f"{path.rpartition('/')[2]}__{row}".encode() for path, length
                                                        in zip(files, lengths) for row in range(length)])
    images = RecordImages(files, lengths, lambda serialized: parse(serialized)[image], size=size)
    return Split(np.arange(len(records)), found["labels"], load_into_memory(images), records, true_labels=found["true"])


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
