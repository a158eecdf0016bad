"""Splits of a data set as {id, image, label}, and drawing from them.

The id is the position in the source's order before anything is dropped; every draw hangs on (seed, id).
"""

import dataclasses

import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.data.noise import apportion, uniform_draws

TEST_SALT, HOLD_OUT_SALT, SUBSET_SALT = 0x74657374, 0x686F6C64, 0x737562


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples, n of them.

    Args:
      ids: int64 [n], ascending.
      labels: int32 [n], those to train on.
      images: one of the kinds of `images.py`, of length n.
      records: str or bytes [n], each leading to a file or record.
      true_labels: int32 [n], -1 where unknown; None where all are.
      digests: int64 [n], of the files' contents, or None.
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
        """The split of these rows, ascending."""
        return Split(self.ids[rows], self.labels[rows], self.images.take(rows), self.records[rows],
                     self.true_labels[rows], None if self.digests is None else self.digests[rows])

    def with_true_labels(self):
        """The same examples, their labels the true ones where those are known."""
        return dataclasses.replace(self, labels=np.where(self.true_labels >= 0, self.true_labels, self.labels))

    def record_names(self):
        """The records as text that can be written anywhere: a list of str."""
        return [record_text(record) for record in self.records]


def record_text(record):
    """A record or path, str or bytes in any encoding, as text."""
    return record.decode("utf-8", "backslashreplace") if isinstance(record, bytes) else str(record)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set before anything is held out or corrupted.

    Args:
      class_names: str, in the order of the labels.
      validation: a Split, or None to hold it out of the training split.
      bad_images: (record, reason) of the images left out.
      sizes: int32 [n, 2], height and width of the files, or None.
    """

    class_names: tuple
    train: Split
    test: Split
    validation: Split = None
    bad_images: tuple = ()
    sizes: np.ndarray = None


def hold_out(split, *, fraction, seed, salt=HOLD_OUT_SALT):
    """The same share of each class, drawn by (seed, id): (the rest, the held out). A class's only example stays.

    Raises:
      UserError: no class has a second example.
    """
    labels = split.with_true_labels().labels
    several = np.bincount(labels)[labels] > 1
    if not several.any():
        raise UserError(f"no class has two training examples: nothing can be held out of the {len(split)}.")
    count = min(max(round(fraction * len(split)), 1), int(several.sum()))
    _, held = draw_stratified(split.take(np.flatnonzero(several)), count, seed=seed, salt=salt)
    return split.take(np.flatnonzero(~np.isin(split.ids, held.ids))), held


def subset(split, count, *, seed):
    """`count` examples in the classes' proportions, drawn by (seed, id); 0 means all.

    Raises:
      UserError: more than there are.
    """
    if count > len(split):
        raise UserError(f"--train_examples={count} is above the {len(split)} there are: lower it, or 0 for all.")
    return draw_stratified(split, count, seed=seed, salt=SUBSET_SALT)[1] if count else split


def draw_stratified(split, count, *, seed, salt):
    """`count` examples in the classes' proportions (largest remainder): (the others, the drawn), in order.

    The classes are the true ones where they are known, so that noise changes no draw.
    """
    labels = split.with_true_labels().labels
    classes, sizes = np.unique(labels, return_counts=True)
    draws = uniform_draws(split.ids, seed=seed, salt=salt)
    drawn = np.zeros(len(split), bool)
    for label, share in zip(classes, apportion(sizes / len(split), count)):
        members = np.flatnonzero(labels == label)
        drawn[members[np.argsort(draws[members], kind="stable")[:share]]] = True
    return split.take(np.flatnonzero(~drawn)), split.take(np.flatnonzero(drawn))
