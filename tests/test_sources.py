"""The digits and CIFAR-10, and the draws of held-out examples and subsets."""

import shutil

import numpy as np
import pytest

from mlnt_tf.config import Config, UserError
from mlnt_tf.data import splits
from mlnt_tf.data.sources import load_source


@pytest.fixture(scope="module")
def digits():
    return load_source(Config())


def load_cifar10(data_dir):
    return load_source(Config(dataset="cifar10", data_dir=str(data_dir)))


def load_error(data_dir):
    """Returns the error of loading CIFAR-10, which is one line."""
    with pytest.raises(UserError) as error:
        load_cifar10(data_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_digits_are_complete(digits):
    assert (len(digits.train), len(digits.test)) == (1497, 300)
    assert sorted([*digits.train.ids, *digits.test.ids]) == list(range(1797))
    images = digits.train.images
    assert images.shape == (8, 8, 1) and images.array.shape == (1497, 8, 8, 1)
    assert images.array.dtype == np.uint8 and images.array.max() == 255
    assert digits.train.records[0] == f"digits[{digits.train.ids[0]}]"


def test_test_split_is_same_for_every_seed(digits):
    np.testing.assert_array_equal(load_source(Config(seed=7)).test.ids, digits.test.ids)


def test_held_out_examples_have_the_proportions_of_the_classes(digits):
    train, validation = splits.hold_out(digits.train, fraction=.1, seed=0)
    assert (len(train), len(validation)) == (1347, 150)
    assert not set(train.ids) & set(validation.ids)
    assert np.ptp(np.bincount(validation.labels)) <= 1


def test_another_seed_holds_out_other_examples(digits):
    _, one = splits.hold_out(digits.train, fraction=.1, seed=0)
    _, other = splits.hold_out(digits.train, fraction=.1, seed=1)
    assert set(one.ids) != set(other.ids)


def test_subset_has_requested_size_and_balanced_classes(digits):
    subset = splits.subset(digits.train, 100, seed=0)
    assert len(subset) == 100 and np.ptp(np.bincount(subset.labels)) <= 1
    assert splits.subset(digits.train, 0, seed=0) is digits.train


def test_subset_larger_than_split_is_refused(digits):
    with pytest.raises(UserError, match="--train_examples=1498 is more than the 1497 examples"):
        splits.subset(digits.train, 1498, seed=0)


@pytest.mark.slow
def test_cifar10_is_complete(cifar10_dir):
    source = load_cifar10(cifar10_dir)
    assert (len(source.train), len(source.test)) == (50_000, 10_000)
    assert source.train.images.shape == (32, 32, 3)
    assert source.class_names[:2] == ("airplane", "automobile")
    assert source.class_names[9] == "truck"
    np.testing.assert_array_equal(np.bincount(source.train.labels), 5000)
    np.testing.assert_array_equal(source.train.ids, np.arange(50_000))
    train_records = set(source.train.records)
    assert len(train_records) == 50_000 and not train_records & set(source.test.records)


def test_missing_data_set_is_refused(tmp_path):
    message = load_error(tmp_path / "nowhere")
    assert f"--data_dir={tmp_path / 'nowhere'} lacks CIFAR-10" in message
    assert "--download" in message


def test_damaged_metadata_are_refused(tmp_path):
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{no json")
    (version / "features.json").write_text("{no json")
    assert f"--data_dir={tmp_path}" in load_error(tmp_path)


def test_damaged_records_are_refused(tmp_path, cifar10_dir):
    shutil.copytree(cifar10_dir / "cifar10", tmp_path / "cifar10")
    record = next((tmp_path / "cifar10").glob("*/cifar10-train*"))
    record.chmod(0o644)
    record.write_bytes(record.read_bytes()[:1000])
    assert "cannot be read" in load_error(tmp_path)
