import numpy as np
import pytest

from mlnt_tf.config import Config, UserError
from mlnt_tf.data import splits
from mlnt_tf.data.sources import load_source


@pytest.fixture(scope="module")
def digits():
    return load_source(Config())


def test_digits_are_all_there_once(digits):
    assert (len(digits.train), len(digits.test)) == (1497, 300)
    assert sorted([*digits.train.ids, *digits.test.ids]) == list(range(1797))
    images = digits.train.images
    assert images.shape == (8, 8, 1) and images.array.shape == (1497, 8, 8, 1) and images.array.dtype == np.uint8
    assert images.array.max() == 255
    assert digits.train.records[0] == f"digits[{digits.train.ids[0]}]"


def test_the_test_split_is_the_same_for_every_seed(digits):
    np.testing.assert_array_equal(load_source(Config(seed=7)).test.ids, digits.test.ids)


def test_held_out_examples_keep_the_classes_shares(digits):
    train, validation = splits.hold_out(digits.train, fraction=.1, seed=0)
    assert (len(train), len(validation)) == (1347, 150)
    assert not set(train.ids) & set(validation.ids)
    assert np.ptp(np.bincount(validation.labels)) <= 1


def test_another_seed_holds_out_others(digits):
    one, other = (set(splits.hold_out(digits.train, fraction=.1, seed=seed)[1].ids) for seed in (0, 1))
    assert one != other


def test_a_subset_is_exact_and_balanced(digits):
    subset = splits.subset(digits.train, 100, seed=0)
    assert len(subset) == 100 and np.ptp(np.bincount(subset.labels)) <= 1
    assert len(splits.subset(digits.train, 0, seed=0)) == 1497


def test_too_large_a_subset_is_refused(digits):
    with pytest.raises(UserError, match="--train_examples=1498"):
        splits.subset(digits.train, 1498, seed=0)


def test_cifar10_is_whole(cifar10_dir):
    source = load_source(Config(dataset="cifar10", data_dir=str(cifar10_dir)))
    assert (len(source.train), len(source.test)) == (50_000, 10_000)
    assert source.train.images.shape == (32, 32, 3)
    assert source.class_names[:2] == ("airplane", "automobile") and source.class_names[9] == "truck"
    np.testing.assert_array_equal(np.bincount(source.train.labels), 5000)
    np.testing.assert_array_equal(source.train.ids, np.arange(50_000))
    assert len(set(source.train.records)) == 50_000 and not set(source.train.records) & set(source.test.records)


def test_missing_data_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="lacks CIFAR-10.*--download") as caught:
        load_source(Config(dataset="cifar10", data_dir=str(tmp_path / "nowhere")))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_broken_metadata_are_told_in_one_line_with_the_fix(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{no json")
    (folder / "features.json").write_text("{no json")
    with pytest.raises(UserError, match="--data_dir") as caught:
        load_source(Config(dataset="cifar10", data_dir=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_broken_data_are_told_in_one_line(tmp_path, cifar10_dir):
    import shutil

    shutil.copytree(cifar10_dir / "cifar10", tmp_path / "cifar10")
    record = next((tmp_path / "cifar10").glob("*/cifar10-train*"))
    record.chmod(0o644)
    record.write_bytes(record.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_source(Config(dataset="cifar10", data_dir=str(tmp_path)))
    assert "\n" not in str(caught.value)
