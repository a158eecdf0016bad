"""Data sets as {id, image, label}: the id is the position in the source's fixed order, before anything is dropped."""

import dataclasses
import os

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.images import ArrayImages
from mlnt_tf.data.noise import apportion, uniform

TEST_SALT, HOLD_OUT_SALT, SUBSET_SALT = 0x74657374, 0x686F6C64, 0x737562
DIGITS_TEST_EXAMPLES = 300


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, n of them.

    Args:
      ids: int64 [n], ascending.
      labels: int32 [n], those to train on.
      images: one of the kinds of `images.py`, of length n.
      records: str or bytes [n], each leading to a file or record.
      true_labels: int32 [n], -1 where unknown; None where all are.
    """

    ids: np.ndarray
    labels: np.ndarray
    images: object
    records: np.ndarray
    true_labels: np.ndarray = None

    def __post_init__(self):
        if self.true_labels is None:
            object.__setattr__(self, "true_labels", np.full(len(self.ids), -1, np.int32))

    def __len__(self):
        return len(self.ids)

    def take(self, rows):
        """The split of these rows, ascending."""
        return Split(self.ids[rows], self.labels[rows], self.images.take(rows), self.records[rows],
                     self.true_labels[rows])

    def with_true_labels(self):
        """The same examples, their labels the true ones where those are known."""
        return dataclasses.replace(self, labels=np.where(self.true_labels >= 0, self.true_labels, self.labels))

    def record_names(self):
        """The records as text: a list of str."""
        return [os.fsdecode(record) for record in self.records]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before anything is held out or corrupted; a validation split of None is held out of the training
    split."""

    class_names: tuple
    train: Split
    test: Split
    validation: Split = None


def load_source(config):
    """The Source that --dataset names.

    Raises:
      UserError: --data_dir lacks the data.
    """
    return {"digits": load_digits, "cifar10": load_cifar10}[config.dataset](config)


def load_digits(config):
    """scikit-learn's 1,797 handwritten digits, 8 x 8; the same 300 of them are the test split of every seed."""
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    ids, labels = np.arange(len(digits.target)), digits.target.astype(np.int32)
    everything = Split(ids=ids, labels=labels, true_labels=labels,
                       images=ArrayImages(np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]),
                       records=np.array([f"digits[{i}]" for i in ids]))
    rest, test = draw(everything, DIGITS_TEST_EXAMPLES, seed=0, salt=TEST_SALT)
    return Source(tuple(str(name) for name in digits.target_names), rest, test)


def load_cifar10(config):
    """CIFAR-10 through TFDS, in the order of its records."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder("cifar10", data_dir=config.data_dir or None)
        if not builder.data_path.exists() and config.download:
            builder.download_and_prepare()
    except Exception as error:
        raise UserError(f"--dataset=cifar10 cannot be prepared under --data_dir={config.data_dir!r}: "
                        f"{first_line(error)}; point --data_dir at a TFDS directory that holds it.") from error
    if not builder.data_path.exists():
        raise UserError(f"--data_dir={config.data_dir or builder.data_dir.parent.parent!s} lacks CIFAR-10: looked for "
                        f"{builder.data_path}; point --data_dir at a TFDS directory that holds it, or add --download.")
    try:
        train, test = (read_tfds(builder, split) for split in ("train", "test"))
    except Exception as error:
        raise UserError(f"--data_dir={config.data_dir}: {builder.data_path} cannot be read ({first_line(error)}); "
                        "remove it and add --download.") from error
    return Source(tuple(builder.info.features["label"].names), train, test)


def read_tfds(builder, split):
    """One split of a TFDS builder as a Split, files in order."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=tfds.ReadConfig(add_tfds_id=True))
    batches = list(dataset.batch(1024, num_parallel_calls=tf.data.AUTOTUNE).as_numpy_iterator())
    images, labels, records = (np.concatenate([batch[key] for batch in batches])
                               for key in ("image", "label", "tfds_id"))
    labels = labels.astype(np.int32)
    return Split(np.arange(len(labels)), labels, ArrayImages(images), records.astype(str), true_labels=labels)


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def hold_out(split, *, fraction, seed):
    """The same share of each class, drawn by (seed, id): (the rest, the held out)."""
    return draw(split, max(round(fraction * len(split)), 1), seed=seed, salt=HOLD_OUT_SALT)


def subset(split, count, *, seed):
    """`count` examples in the classes' proportions, drawn by (seed, id); 0 means all.

    Raises:
      UserError: more than there are.
    """
    if count > len(split):
        raise UserError(f"--train_examples={count} is above the {len(split)} there are: lower it, or 0 for all.")
    return draw(split, count, seed=seed, salt=SUBSET_SALT)[1] if count else split


def draw(split, count, *, seed, salt):
    """`count` examples in the classes' proportions (largest remainder): (the others, the drawn), in order.

    The classes are the true ones where they are known, so that noise changes no draw.
    """
    labels = split.with_true_labels().labels
    classes, sizes = np.unique(labels, return_counts=True)
    draws = uniform(split.ids, seed=seed, salt=salt)
    drawn = np.zeros(len(split), bool)
    for label, share in zip(classes, apportion(sizes / len(split), count)):
        members = np.flatnonzero(labels == label)
        drawn[members[np.argsort(draws[members], kind="stable")[:share]]] = True
    return split.take(np.flatnonzero(~drawn)), split.take(np.flatnonzero(drawn))
