"""A run is not resumed on other data, wherever the data are."""

import dataclasses
import types

import numpy as np
import pytest

from mlnt_tf.config import Config, UserError, flags
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Split
from mlnt_tf.experiment import data_record, record

NAMES = ("cat", "dog")


def split_of(start, count, root=""):
    ids = np.arange(start, start + count)
    return Split(ids=ids, labels=(ids % 2).astype(np.int32),
                 images=ArrayImages(np.zeros([count, 1, 1, 1], np.uint8)),
                 records=np.array([f"{root}{number}.png" for number in ids]), digests=ids + 100)


def examples_of(root=""):
    return types.SimpleNamespace(
        train=split_of(0, 10, root), validation=split_of(10, 4, root), test=split_of(20, 4, root),
        class_names=NAMES)


def changed(**columns):
    """Returns examples whose training split has other columns."""
    examples = examples_of()
    examples.train = dataclasses.replace(examples.train, **columns)
    return examples


@pytest.fixture
def config(tmp_path):
    (tmp_path / "run").mkdir()
    config = Config(dataset="folder", data_dir=str(tmp_path), output_dir=str(tmp_path / "run"))
    data_record.write_data(config, examples_of())
    return config


def refusal(config, examples):
    with pytest.raises(UserError) as error:
        data_record.check_data(config, examples)
    return str(error.value)


def test_same_data_resume(config):
    data_record.check_data(config, examples_of())


def test_same_data_with_absolute_paths_elsewhere_resume(config, tmp_path):
    for number in (1, 2):
        root = tmp_path / f"job{number}"
        root.mkdir()
        elsewhere = dataclasses.replace(config, data_dir=str(root), output_dir=str(root / "run"))
        (root / "run").mkdir()
        data_record.write_data(elsewhere, examples_of(f"{root}/"))
        data_record.check_data(elsewhere, examples_of())
        assert record.identity(elsewhere) == record.identity(config)


def test_corrected_labels_are_refused_with_their_number_and_what_to_type(config):
    labels = examples_of().train.labels
    labels[[3, 5]] = 0
    message = refusal(config, changed(labels=labels))
    expected = "holds a run on other data: the labels of 2 images differ (such as 3.png, 5.png)"
    assert expected in message
    assert message.endswith(f"train on these with --output_dir={config.output_dir}_2")


def test_free_directory_is_suggested(config, tmp_path):
    (tmp_path / "run_2").mkdir()
    examples = examples_of()
    examples.class_names = ("kitten", "dog")
    message = refusal(config, examples)
    assert "the classes are kitten, dog, not cat, dog" in message
    assert message.endswith("run_3")


@pytest.mark.parametrize("column, value, message", [
    ("true_labels", np.ones(10, np.int32), "the true labels of 10 images differ"),
    ("digests", np.arange(10) + 99, "the contents of 10 images differ"),
    ("ids", np.arange(10) + 1, "the positions of 10 images differ"),
    ("records", np.array([f"{number}.png" for number in (50, *range(1, 10))]),
     "1 images are missing; 1 images are new (such as 50.png)")])
def test_change_is_named(config, column, value, message):
    assert message in refusal(config, changed(**{column: value}))


def test_deleted_images_are_counted(config):
    examples = examples_of()
    examples.train = examples.train.take(np.arange(4, 10))
    assert "4 images are missing. Restore" in refusal(config, examples)


def test_image_in_another_split_is_named(config):
    examples = examples_of()
    examples.test, examples.validation = examples.validation, examples.test
    assert "8 images are in another split" in refusal(config, examples)


def test_record_that_occurs_twice_is_matched_in_order(config):
    twice = examples_of()
    twice.train.records[1] = "0.png"
    table = data_record.describe_data(config, twice)
    assert data_record.find_changes(table, table, []) == []
    other = {**table, "label": np.where(table["id"] == 1, 0, table["label"])}
    assert data_record.find_changes(table, other, ["a", "b"] + [""] * 16) == [
        "the labels of 1 images differ (such as b)"]


def test_data_are_recorded_once(config, monkeypatch):
    monkeypatch.setattr(data_record, "describe_data", None)
    data_record.write_data(config, examples_of())


def test_flags_record_the_new_path_of_the_data_and_keep_the_explicit_flags(tmp_path):
    from mlnt_tf.experiment import run

    old, new = (flags.parse(["train", "--dataset=folder", f"--data_dir={tmp_path / name}", *more,
                             f"--output_dir={tmp_path / 'run'}"])
                for name, more in (("job1", ["--seed=0"]), ("job2", [])))
    (tmp_path / "run").mkdir()
    run._record_flags(None, old)
    explicit = record.explicit_flags(old)
    recorded = record.find_recorded(new)
    run._record_flags(recorded, new)
    assert f"--data_dir={tmp_path / 'job2'}" in (tmp_path / "run/flags.txt").read_text()
    assert record.explicit_flags(new) == explicit


def test_older_record_without_a_table_is_accepted(config, tmp_path):
    for name in ("data.npz", "data.json"):
        (tmp_path / "run" / name).unlink()
    data_record.check_data(config, changed(labels=np.zeros(10, np.int32)))
