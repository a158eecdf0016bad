"""Splits of a data set, and random draws from them.

The id of an example is its position in the source's order before any example is left out. Every
draw depends only on the seed and the id.
"""

import dataclasses

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.noise import apportion, uniform_draws

TEST_SALT, HOLD_OUT_SALT, SUBSET_SALT = 0x74657374, 0x686F6C64, 0x737562


@dataclasses.dataclass(frozen=True)
class Split:
    """n examples of a data set.

    Attributes:
      ids: int64 [n], ascending.
      labels: int32 [n], the labels to train or to score on.
      images: one of the classes in `mlnt_tf.data.images.storage`, of length n.
      records: str or bytes [n], each the path of a file or the name of a record.
      true_labels: int32 [n], -1 where unknown. None means that all are unknown.
      digests: int64 [n], a digest of each file's content, or None.
    """

    ids: np.ndarray
    labels: np.ndarray
    images: object
    records: np.ndarray
    true_labels: np.ndarray = None
    digests: np.ndarray = None

    def __post_init__(self):
        if self.true_labels is None:
            object.__setattr__(self, "true_labels", np.full(len(self.ids), -1, np.int32))

    def __len__(self):
        return len(self.ids)

    def take(self, rows):
        """Returns the split of some rows.

        Args:
          rows: int [m], ascending.
        """
        digests = None if self.digests is None else self.digests[rows]
        return Split(ids=self.ids[rows], labels=self.labels[rows], images=self.images.take(rows),
                     records=self.records[rows], true_labels=self.true_labels[rows],
                     digests=digests)

    def with_true_labels(self):
        """Returns the same examples, with the true label as label wherever it is known."""
        labels = np.where(self.true_labels >= 0, self.true_labels, self.labels)
        return dataclasses.replace(self, labels=labels)

    def record_names(self):
        """Returns the records as printable text: list of str."""
        return [record_text(record) for record in self.records]


def record_text(record):
    """Returns a record or path, str or bytes in any encoding, as printable str."""
    return record.decode("utf-8", "backslashreplace") if isinstance(record, bytes) else str(record)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before examples are held out or labels are corrupted.

    Attributes:
      class_names: tuple of str, in the order of the labels.
      train: `Split`.
      test: `Split`.
      validation: `Split`, or None to hold examples out of the training split.
      bad_images: tuple of (record, reason), the images that are left out.
      sizes: int32 [n, 2], height and width of the image files in pixels, or None.
    """

    class_names: tuple
    train: Split
    test: Split
    validation: Split = None
    bad_images: tuple = ()
    sizes: np.ndarray = None


def hold_out(split, *, fraction, seed, salt=HOLD_OUT_SALT):
    """Holds out the same fraction of each class. The only example of a class is not held out.

    Args:
      split: `Split`.
      fraction: float in (0, 1), the fraction of all examples. At least one is held out.
      seed, salt: int, see `uniform_draws`.

    Returns:
      (remaining `Split`, held-out `Split`).

    Raises:
      UserError: no class has two examples.
    """
    labels = split.with_true_labels().labels
    rows = np.flatnonzero(np.bincount(labels)[labels] > 1)
    if not len(rows):
        raise UserError(f"Nothing can be held out of the {len(split)} training examples, because "
                        "no class has two. Add examples, or provide validation and test splits.")
    count = min(max(round(fraction * len(split)), 1), len(rows))
    _, held_out = draw_stratified(split.take(rows), count, seed=seed, salt=salt)
    remaining = split.take(np.flatnonzero(~np.isin(split.ids, held_out.ids)))
    return remaining, held_out


def hold_out_test(train, fraction):
    """Holds out a test split, for a data set that has none. It is the same for every seed.

    Args:
      train: `Split`.
      fraction: float in (0, 1), the value of --test_fraction.

    Returns:
      (remaining `Split`, test `Split`).

    Raises:
      UserError: no class has two examples.
    """
    train, test = hold_out(train, fraction=fraction, seed=0, salt=TEST_SALT)
    logging.info("The data set has no test split. %d training examples are held out for testing, "
                 "the same for every seed.", len(test))
    return train, test


def subset(split, count, *, seed):
    """Returns `count` examples in the proportions of the classes, or all of them if `count` is 0.

    Args:
      split: `Split`.
      count: int, the value of --train_examples.
      seed: int, see `uniform_draws`.

    Raises:
      UserError: `count` is larger than the split.
    """
    if count > len(split):
        raise UserError(f"--train_examples={count} is more than the {len(split)} examples of the "
                        "training split. Lower it, or use 0 for all.")
    if not count:
        return split
    _, drawn = draw_stratified(split, count, seed=seed, salt=SUBSET_SALT)
    return drawn


def draw_stratified(split, count, *, seed, salt):
    """Draws `count` examples in the proportions of the classes, by largest remainder.

    The classes are those of the true labels where they are known, so label noise does not change
    the draw.

    Args:
      split: `Split`.
      count: int, at most the size of the split.
      seed, salt: int, see `uniform_draws`.

    Returns:
      (`Split` of the other examples, `Split` of the drawn examples), both in order.
    """
    labels = split.with_true_labels().labels
    classes, class_sizes = np.unique(labels, return_counts=True)
    draws = uniform_draws(split.ids, seed=seed, salt=salt)
    is_drawn = np.zeros(len(split), bool)
    for label, class_count in zip(classes, apportion(class_sizes / len(split), count)):
        members = np.flatnonzero(labels == label)
        ranked = members[np.argsort(draws[members], kind="stable")]
        is_drawn[ranked[:class_count]] = True
    return split.take(np.flatnonzero(~is_drawn)), split.take(np.flatnonzero(is_drawn))
