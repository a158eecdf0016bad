"""Splits of a data set, and random draws from them.

The id of an example is its position in the source's order before any example is left out. Every
draw depends only on the seed and the id.
"""

import dataclasses

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
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
      groups: int64 [n], equal for examples that belong in the same split; -1 for an example on its
        own. None means that there are no groups.
    """

    ids: np.ndarray
    labels: np.ndarray
    images: object
    records: np.ndarray
    true_labels: np.ndarray = None
    digests: np.ndarray = None
    groups: np.ndarray = None

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
        columns = {"digests": self.digests, "groups": self.groups}
        columns = {name: column if column is None else column[rows]
                   for name, column in columns.items()}
        return Split(ids=self.ids[rows], labels=self.labels[rows], images=self.images.take(rows),
                     records=self.records[rows], true_labels=self.true_labels[rows], **columns)

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
      unlabeled: `Split` of the images of the training split that have no label (-1), or None. They
        are not trained on. Their ids are those of the training split.
    """

    class_names: tuple
    train: Split
    test: Split
    validation: Split = None
    bad_images: tuple = ()
    sizes: np.ndarray = None
    unlabeled: Split = None


def hold_out(split, *, fraction, seed, salt=HOLD_OUT_SALT):
    """Holds out the same fraction of each class. The only example of a class is not held out.

    Examples of equal content or of one group stay together; see `find_units`. The fraction is then
    met as closely as the sizes of the groups allow.

    Args:
      split: `Split`.
      fraction: float in (0, 1), the fraction of all examples. At least one is held out.
      seed, salt: int, see `uniform_draws`.

    Returns:
      (remaining `Split`, held-out `Split`).

    Raises:
      UserError: no class has two examples, or two groups of them.
    """
    labels = split.with_true_labels().labels
    count = max(round(fraction * len(split)), 1)
    units = find_units(split)
    if units is not None:
        is_held_out = _draw_units(labels, units, count, split.ids, seed=seed, salt=salt)
        if not is_held_out.any():
            raise UserError(f"Nothing can be held out of the {len(split)} training examples, "
                            "because no class has two groups or two different images. Add "
                            "examples, or provide validation and test splits.")
        return split.take(np.flatnonzero(~is_held_out)), split.take(np.flatnonzero(is_held_out))
    rows = np.flatnonzero(np.bincount(labels)[labels] > 1)
    if not len(rows):
        raise UserError(f"Nothing can be held out of the {len(split)} training examples, because "
                        "no class has two. Add examples, or provide validation and test splits.")
    count = min(count, len(rows))
    _, held_out = draw_stratified(split.take(rows), count, seed=seed, salt=salt)
    remaining = split.take(np.flatnonzero(~np.isin(split.ids, held_out.ids)))
    return remaining, held_out


def hold_out_known_first(split, *, fraction, seed):
    """Holds out examples with a known true label before others, if only some labels are known.

    A class keeps at least one training example. Args, returns and errors are those of `hold_out`.
    """
    is_known = split.true_labels >= 0
    count = max(round(fraction * len(split)), 1)
    if not is_known.any() or is_known.all():
        return hold_out(split, fraction=fraction, seed=seed)
    known = split.take(np.flatnonzero(is_known))
    if count < len(known):
        try:
            chosen = hold_out(known, fraction=count / len(known), seed=seed)[1].ids
        except UserError:  # No class has two known labels.
            return hold_out(split, fraction=fraction, seed=seed)
    else:
        others = split.take(np.flatnonzero(~is_known))
        chosen = known.ids
        if count > len(known):
            missing = (count - len(known)) / len(others)
            chosen = np.concatenate([chosen, hold_out(others, fraction=missing, seed=seed)[1].ids])
    is_held_out = np.isin(split.ids, chosen)
    units = find_units(split)
    if units is not None:
        is_held_out = np.isin(units, units[is_held_out])
    labels = split.with_true_labels().labels
    for label in np.setdiff1d(labels, labels[~is_held_out]):
        is_held_out[np.flatnonzero(labels == label)[0]] = False
    return split.take(np.flatnonzero(~is_held_out)), split.take(np.flatnonzero(is_held_out))


def find_units(split):
    """Returns which examples must not be separated.

    These are examples of one group and those with equal content, also in a chain of both.

    Args:
      split: `Split`.

    Returns:
      int [n], equal for examples that stay together, or None if every example is on its own.
    """
    num_examples, edges = len(split), []
    num_nodes = num_examples
    for column in (split.digests, split.groups):
        if column is None:
            continue
        rows = np.arange(num_examples) if column is split.digests else np.flatnonzero(column >= 0)
        _, keys = np.unique(column[rows], return_inverse=True)
        edges.append(np.stack([rows, num_nodes + keys]))
        num_nodes += num_examples
    if not edges:
        return None
    starts, ends = np.concatenate(edges, axis=1)
    graph = scipy.sparse.coo_array((np.ones(len(starts), bool), (starts, ends)),
                                   shape=(num_nodes, num_nodes))
    _, components = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, units = np.unique(components[:num_examples], return_inverse=True)
    return units if units.max() + 1 < num_examples else None


def _draw_units(labels, units, count, ids, *, seed, salt):
    """Draws units until about `count` examples are drawn, in the proportions of the classes.

    A unit belongs to the most frequent class of its examples. The last unit of a class stays.

    Args:
      labels, units, ids: int [n]. `units` are 0 … number of units - 1.
      count: int.
      seed, salt: int, see `uniform_draws`.

    Returns:
      bool [n], whether an example is drawn.
    """
    pairs, pair_counts = np.unique(np.stack([units, labels]), axis=1, return_counts=True)
    order = np.lexsort((-pairs[1], pair_counts, pairs[0]))
    last_of_unit = np.append(np.diff(pairs[0][order]) > 0, True)
    unit_labels = pairs[1][order][last_of_unit]
    sizes = np.bincount(units)
    _, first = np.unique(units, return_index=True)
    draws = uniform_draws(ids[first], seed=seed, salt=salt)
    usable = np.bincount(unit_labels)[unit_labels] > 1
    is_drawn = np.zeros(len(sizes), bool)
    if not usable.any():
        return is_drawn[units]
    classes = np.unique(unit_labels[usable])
    class_sizes = np.array([sizes[unit_labels == label].sum() for label in classes])
    targets = _apportion_classes(classes, class_sizes, min(count, class_sizes.sum()), seed, salt)
    for label, target in zip(classes, targets):
        members = np.flatnonzero(unit_labels == label)
        drawn = 0
        for unit in members[np.argsort(draws[members], kind="stable")][:-1]:
            if drawn + sizes[unit] / 2 <= target:
                is_drawn[unit] = True
                drawn += sizes[unit]
    if not is_drawn.any():
        is_drawn[np.flatnonzero(usable)[np.argmin(sizes[usable])]] = True
    return is_drawn[units]


def _apportion_classes(classes, class_sizes, count, seed, salt):
    """Returns how many examples of each class to draw: int64 [classes].

    If a class gets less than one, the seed decides which classes of equal size get one. Larger
    classes keep the order of the labels, so that splits of earlier versions stay the same.
    """
    shares = class_sizes / class_sizes.sum()
    draws = uniform_draws(classes, seed=seed, salt=salt)
    ties = np.where(shares * count < 1, draws, np.arange(len(classes)))
    return apportion(shares, count, ties=ties)


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
    class_counts = _apportion_classes(classes, class_sizes, count, seed, salt)
    for label, class_count in zip(classes, class_counts):
        members = np.flatnonzero(labels == label)
        ranked = members[np.argsort(draws[members], kind="stable")]
        is_drawn[ranked[:class_count]] = True
    return split.take(np.flatnonzero(~is_drawn)), split.take(np.flatnonzero(is_drawn))
