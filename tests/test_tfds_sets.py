"""Sets that TFDS has prepared, CIFAR-10N among them; small ones are stored here under the real names."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images import storage
from mlnt_tf.data.sources import load_source
from mlnt_tf.data.sources.tfds_sets import quiet_tfds

COUNT = 100
PIXELS = np.random.default_rng(0).integers(256, size=[COUNT, 32, 32, 3], dtype=np.uint8)
TRUE = np.arange(COUNT) % 10
WORSE = np.where(np.arange(COUNT) < 40, (TRUE + 1) % 10, TRUE)
NAMES = [f"train_{row:05d}" for row in range(COUNT)]


def store(root, name, version, columns, **kinds):
    import tensorflow as tf

    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=10)}
    for extra in columns:
        features.setdefault(extra, kinds.get(extra, tfds.features.ClassLabel(num_classes=10)))
    first = {key: column[:10] for key, column in columns.items()}
    with quiet_tfds():
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name, version=version, features=tfds.features.FeaturesDict(features), data_dir=str(root),
            disable_shuffling=True,
            split_datasets={split: tf.data.Dataset.from_tensor_slices(some) for split, some in
                            (("train", columns), ("test", first))})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    store(root, "cifar10", "3.0.2", {"image": PIXELS, "label": TRUE, "id": NAMES}, id=tfds.features.Text())
    store(root, "cifar10_n", "1.0.4", {"image": PIXELS[::-1], "label": TRUE[::-1], "id": NAMES[::-1],
                                       "worse_label": WORSE[::-1], "random_label1": TRUE}, id=tfds.features.Text())
    return root


def load(root, **settings):
    return load_source(Config(data_dir=str(root), **settings))


def test_cifar10n_has_the_human_labels_and_the_true_ones(root):
    source = load(root, dataset="cifar10_n", noise="worse")
    np.testing.assert_array_equal(source.train.labels, WORSE[::-1])
    np.testing.assert_array_equal(source.train.true_labels, TRUE[::-1])
    np.testing.assert_array_equal(source.train.images.array, PIXELS[::-1])
    np.testing.assert_array_equal(source.test.labels, TRUE[::-1][:10])
    assert source.validation is None


def test_human_labels_on_the_wrong_images_are_refused_by_their_rate(root):
    with pytest.raises(UserError, match=r"100.0 % of the random_label1s .* 17.2 % should be"):
        load(root, dataset="cifar10_n", noise="random1")


def test_true_labels_that_are_not_cifar10s_are_refused_with_the_first_ids(root, tmp_path):
    import shutil

    shutil.copytree(root / "cifar10_n", tmp_path / "cifar10_n")
    mixed = TRUE.copy()
    mixed[[7, 9]] = mixed[[9, 7]]
    store(tmp_path, "cifar10", "3.0.2", {"image": PIXELS, "label": mixed, "id": NAMES}, id=tfds.features.Text())
    with pytest.raises(UserError, match="of 2 images .*ids train_00009, train_00007") as caught:
        load(tmp_path, dataset="cifar10_n", noise="worse")
    assert "\n" not in str(caught.value)


def test_cifar10n_without_cifar10_is_refused(root, tmp_path):
    import shutil

    shutil.copytree(root / "cifar10_n", tmp_path / "cifar10_n")
    with pytest.raises(UserError, match="lacks CIFAR-10, which CIFAR-10N is compared with"):
        load(tmp_path, dataset="cifar10_n", noise="worse")


def test_a_set_missing_from_the_default_directory_is_refused(tmp_path, monkeypatch):
    builder = tfds.builder  # which looks below the home directory, as it was when TFDS was imported
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder(name, data_dir=data_dir or str(tmp_path)))
    with pytest.raises(UserError, match=f"--data_dir={tmp_path} lacks CIFAR-10.*or add --download"):
        load("", dataset="cifar10", noise="none")


@pytest.mark.parametrize("noise, dataset", [("symmetric", "cifar10_n"), ("worse", "digits")])
def test_a_column_of_labels_goes_with_cifar10n_alone(noise, dataset):
    with pytest.raises(UserError, match=f"--noise={noise}"):
        Config(dataset=dataset, noise=noise)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_any_set_by_name_in_memory_or_streamed(root, monkeypatch, limit):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", limit)
    source = load(root, dataset="tfds:cifar10", noise="none")
    assert isinstance(source.train.images, storage.ArrayImages if limit else storage.RecordImages)
    np.testing.assert_array_equal(source.train.labels, TRUE)
    assert (source.train.true_labels == -1).all() and len(source.test) == 10
    assert source.train.record_names()[3].startswith("cifar10-train.tfrecord") and source.train.record_names()[3].endswith("__3")
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 2**30)
    np.testing.assert_array_equal(storage.load_into_memory(source.train.images).array, PIXELS)


def test_a_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="--data_dir=.*nothing_there") as caught:
        load(tmp_path, dataset="tfds:nothing_there", noise="none")
    assert "\n" not in str(caught.value)


def test_a_set_without_classes_is_refused(tmp_path):
    import tensorflow as tf

    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(32, 32, 3)), "age": np.int64})
    with quiet_tfds():
        tfds.dataset_builders.store_as_tfds_dataset(
            name="ages", version="1.0.0", data_dir=str(tmp_path), features=features,
            split_datasets={"train": tf.data.Dataset.from_tensor_slices({"image": PIXELS[:3], "age": [1, 2, 3]})})
    with pytest.raises(UserError, match="has the features .*age.* class label"):
        load(tmp_path, dataset="tfds:ages", noise="none")


def store_mine(root, **labels):
    import tensorflow as tf

    with quiet_tfds():
        tfds.dataset_builders.store_as_tfds_dataset(
            name="mine", version="1.0.0", data_dir=str(root),
            split_datasets={split: tf.data.Dataset.from_tensor_slices({"image": PIXELS, "label": column})
                            for split, column in labels.items()},
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(32, 32, 3)),
                                                 "label": tfds.features.ClassLabel(names=list("abcdefghij"))}))


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path):
    store_mine(tmp_path, train=TRUE, validation=WORSE % 7, test=np.full(COUNT, -1))
    source = load(tmp_path, dataset="tfds:mine", noise="none")
    np.testing.assert_array_equal(np.bincount(source.test.labels), np.bincount(WORSE % 7))
    assert source.validation is None


def test_a_training_split_without_labels_is_refused(tmp_path):
    store_mine(tmp_path, train=np.where(TRUE == 3, -1, TRUE))
    with pytest.raises(UserError, match="10 of the .* examples of its train split have no label"):
        load(tmp_path, dataset="tfds:mine", noise="none")


def test_a_damaged_shard_is_told_in_one_line(tmp_path):
    store_mine(tmp_path, train=TRUE)
    shard, = tmp_path.glob("mine/1.0.0/*tfrecord*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    with pytest.raises(UserError, match="shards of train cannot be read") as caught:
        load(tmp_path, dataset="tfds:mine", noise="none")
    assert "\n" not in str(caught.value)


def test_a_split_that_is_not_there_is_taken_from_train(tmp_path):
    store_mine(tmp_path, train=TRUE)
    source = load(tmp_path, dataset="tfds:mine", noise="none", test_fraction=.2)
    assert (len(source.train), len(source.test), source.class_names[2]) == (80, 20, "c")
    assert load(tmp_path, dataset="tfds:mine", noise="none", image_size=16).train.images.shape == (16, 16, 3)
