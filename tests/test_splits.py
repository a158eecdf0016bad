"""Examples that are held out: by class, by group and by content."""

import numpy as np
import pytest

from mlnt_tf.config import UserError
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.noise import apportion
from mlnt_tf.data.splits import Split, find_units, hold_out


def split_of(labels, *, digests=None, groups=None):
    count = len(labels)
    return Split(ids=np.arange(count), labels=np.asarray(labels, np.int32),
                 images=ArrayImages(np.zeros([count, 1, 1, 1], np.uint8)),
                 records=np.array([str(row) for row in range(count)]),
                 digests=None if digests is None else np.asarray(digests),
                 groups=None if groups is None else np.asarray(groups))


def held_out_classes(seed):
    """Returns the classes of the 8 examples held out of 20 classes of 4 examples."""
    _, held_out = hold_out(split_of(np.repeat(np.arange(20), 4)), fraction=.1, seed=seed)
    return sorted(held_out.labels.tolist())


def test_seed_decides_which_small_classes_are_held_out():
    drawn = [held_out_classes(seed) for seed in range(20)]
    assert all(len(set(classes)) == 8 for classes in drawn)
    assert len(set(map(tuple, drawn))) > 10
    assert {label for classes in drawn for label in classes} == set(range(20))


def test_larger_classes_are_rounded_up_in_the_order_of_labels():
    _, held_out = hold_out(split_of(np.repeat(np.arange(4), 15)), fraction=.1, seed=3)
    assert np.bincount(held_out.labels).tolist() == [2, 2, 1, 1]


def test_ties_of_remainders_are_broken_by_the_smallest_number():
    assert apportion([.25] * 4, 2).tolist() == [1, 1, 0, 0]
    assert apportion([.25] * 4, 2, ties=[3, 1, 2, 0]).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_group_is_never_in_two_splits(seed):
    groups = np.arange(60) // 5
    train, held_out = hold_out(split_of(groups % 2, groups=groups), fraction=.2, seed=seed)
    assert not set(train.groups) & set(held_out.groups)
    assert 5 <= len(held_out) <= 15 and len(train) + len(held_out) == 60


@pytest.mark.parametrize("seed", range(5))
def test_equal_images_are_never_in_two_splits(seed):
    digests = np.repeat(np.arange(40), 2)
    labels = np.where(np.arange(80) < 12, np.arange(80) % 2, digests % 2)  # Some under both labels.
    train, held_out = hold_out(split_of(labels, digests=digests), fraction=.1, seed=seed)
    assert not set(train.digests) & set(held_out.digests)
    assert 4 <= len(held_out) <= 12


def test_chain_of_groups_and_equal_images_stays_together():
    split = split_of([0] * 5, digests=[7, 8, 8, 9, 10], groups=[1, 1, 2, 2, -1])
    units = find_units(split)
    assert len(set(units[:4])) == 1 and units[4] != units[0]


def test_different_images_without_groups_are_on_their_own():
    assert find_units(split_of([0, 1])) is None
    assert find_units(split_of([0, 1], digests=[5, 6])) is None
    assert find_units(split_of([0, 1], groups=[-1, -1])) is None


def test_duplicates_elsewhere_do_not_change_the_held_out_fraction():
    digests = [0, 0, *range(2, 100)]
    _, held_out = hold_out(split_of([0, 1] * 50, digests=digests), fraction=.1, seed=0)
    assert np.bincount(held_out.labels).tolist() == [5, 5]


def test_last_group_of_a_class_is_not_held_out():
    split = split_of([0, 0, 1, 1, 1, 1], groups=[0, 0, 1, 1, 2, 2])
    train, held_out = hold_out(split, fraction=.4, seed=0)
    assert set(held_out.labels) == {1} and len(held_out) == 2
    with pytest.raises(UserError, match="no class has two groups"):
        hold_out(split_of([0, 0, 1, 1], groups=[0, 0, 1, 1]), fraction=.4, seed=0)


def test_unit_belongs_to_its_most_frequent_class():
    digests = [0, 0, 0, 1, 2, 3, 4, 5]
    split = split_of([0, 0, 1, 0, 0, 1, 1, 1], digests=digests)
    for seed in range(4):
        train, held_out = hold_out(split, fraction=.25, seed=seed)
        assert len(held_out) >= 1 and not set(train.digests) & set(held_out.digests)
