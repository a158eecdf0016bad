"""A run on a corrected table: known labels validate, reviewed images are not flagged."""

import numpy as np
import pytest

from mlnt_tf.config import Config
from mlnt_tf.data import splits
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.load import given_splits
from mlnt_tf.experiment import issue_files, label_issues
from mlnt_tf.files import atomic


def split(count, *, first=0, known=(), classes=3):
    labels = np.arange(count, dtype=np.int32) % classes
    true = np.full(count, -1, np.int32)
    true[list(known)] = labels[list(known)]
    pixels = np.random.default_rng(first).integers(256, size=[count, 4, 4, 1], dtype=np.uint8)
    return splits.Split(ids=np.arange(first, first + count), labels=labels, true_labels=true,
                        images=ArrayImages(pixels),
                        records=np.array([f"{row}.png" for row in range(first, first + count)]))


def test_examples_with_known_labels_are_held_out_first():
    known = range(0, 30, 2)
    train, validation = splits.hold_out_known_first(split(100, known=known), fraction=.1, seed=0)
    assert len(validation) == 10 and (validation.true_labels >= 0).all() and len(train) == 90


def test_others_are_held_out_if_too_few_are_known():
    _, validation = splits.hold_out_known_first(split(100, known=[5, 6, 7]), fraction=.1, seed=0)
    assert len(validation) == 10 and {5, 6, 7} <= set(validation.ids)


def test_a_class_keeps_a_training_example_if_all_of_it_are_known():
    rows = split(100, known=range(0, 6, 3))
    rows = rows.take(np.flatnonzero((rows.labels != 0) | (rows.true_labels >= 0)))
    train, validation = splits.hold_out_known_first(rows, fraction=.1, seed=0)
    assert (train.labels == 0).sum() == (validation.labels == 0).sum() == 1


@pytest.mark.parametrize("known", [(), range(100)])
def test_hold_out_is_as_before_if_all_or_no_labels_are_known(known):
    plain = splits.hold_out(split(100, known=known), fraction=.1, seed=0)[1].ids
    first = splits.hold_out_known_first(split(100, known=known), fraction=.1, seed=0)[1].ids
    np.testing.assert_array_equal(plain, first)


def test_ids_are_unique_and_those_of_training_stay():
    source = splits.Source(("a", "b", "c"), split(10), split(6), split(4))
    given = given_splits(source, source.train, source.validation)
    ids = {name: part.ids.tolist() for name, part in given.items()}
    assert ids == {"train": [*range(10)], "validation": [*range(10, 14)], "test": [*range(14, 20)]}


def test_ids_of_a_subset_do_not_depend_on_its_size():
    source = splits.Source(("a", "b", "c"), split(10), split(6))
    given = given_splits(source, source.train.take(np.arange(5)))
    assert given["test"].ids.tolist() == [*range(10, 16)]


@pytest.fixture
def judged():
    """Two splits, judged from probabilities that disagree with three labels."""
    parts = {"train": split(60), "test": split(30, first=60)}
    labels = np.concatenate([part.labels for part in parts.values()])
    likely = labels.copy()
    likely[[3, 4, 70]] = (likely[[3, 4, 70]] + 1) % 3
    probabilities = np.full([90, 3], .05) + .85 * np.eye(3)[likely]
    features = np.eye(3, 8)[likely] + .01 * np.random.default_rng(0).normal(size=[90, 8])
    return label_issues.score(parts, features.astype(np.float32), 3, config=Config(),
                              probabilities=probabilities)


def test_wrong_labels_of_both_splits_come_first(judged):
    assert set(np.argsort(judged.columns["label_score"])[:3]) == {3, 4, 70}
    assert judged.recipe == "network" and judged.columns["is_label_issue"][[3, 4, 70]].all()


def test_reviewed_labels_are_not_flagged_and_have_a_verdict(judged, tmp_path):
    atomic.write_csv(tmp_path / "labels.csv",
                     ("path", "label", "original_label", "verdict", "reviewed"),
                     [("3.png", "a", "", "keep", "review"), ("4.png", "a", "b", "auto", ""),
                      ("5.png", "a", "", "", "")])
    config = Config(dataset="csv", data_dir=str(tmp_path / "labels.csv"))
    column, counts = label_issues.apply_verdicts(judged, config)
    assert column["verdict"][3:6] == ["keep", "", ""]
    assert not judged.columns["is_label_issue"][3] and judged.columns["is_label_issue"][4]
    assert counts["reviewed"] == counts["kept"] == counts["auto"] == 1


def test_large_features_are_projected_and_searched_as_small_ones(judged, monkeypatch):
    monkeypatch.setattr(label_issues, "EXACT_BELOW", 10)
    again = label_issues.score(judged.splits, judged.features, 3, config=Config(),
                               probabilities=judged.probabilities)
    assert set(np.argsort(again.columns["label_score"])[:3]) == {3, 4, 70}


def test_features_in_a_memory_map_become_the_file(judged, tmp_path):
    scratch = tmp_path / "writing_features.npy"
    mapped = np.lib.format.open_memmap(scratch, "w+", np.float32, judged.features.shape)
    mapped[:] = judged.features
    issue_files._write_features(tmp_path, mapped)
    assert not scratch.exists()
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), judged.features)
