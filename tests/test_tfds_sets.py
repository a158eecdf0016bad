"""Data sets that TFDS has prepared, CIFAR-10N among them.

The tests store small data sets under the real names.
"""

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images import storage
from mlnt_tf.data.sources import Survey, load_source, survey
from mlnt_tf.data.sources.tfds_sets import quiet_tfds

COUNT = 100
TEST_COUNT = 10
PIXELS = np.random.default_rng(0).integers(256, size=[COUNT, 32, 32, 3], dtype=np.uint8)
TRUE = np.arange(COUNT) % 10
WORSE = np.where(np.arange(COUNT) < 40, (TRUE + 1) % 10, TRUE)  # 40 % wrong, as published
IMAGE_IDS = [f"train_{row:05d}" for row in range(COUNT)]
IMAGE = tfds.features.Image(shape=(32, 32, 3))
LABEL = tfds.features.ClassLabel(names=list("abcdefghij"))
TEXT = tfds.features.Text()


def store(root, name, version, features, splits):
    """Stores {split: {feature: column}} as a prepared TFDS data set."""
    datasets = {split: tf.data.Dataset.from_tensor_slices(columns)
                for split, columns in splits.items()}
    with quiet_tfds():
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name, version=version, features=tfds.features.FeaturesDict(features),
            data_dir=str(root), disable_shuffling=True, split_datasets=datasets)


def first_rows(columns):
    return {name: column[:TEST_COUNT] for name, column in columns.items()}


def store_cifar10(root, labels):
    columns = {"image": PIXELS, "label": labels, "id": IMAGE_IDS}
    store(root, "cifar10", "3.0.2", {"image": IMAGE, "label": LABEL, "id": TEXT},
          {"train": columns, "test": first_rows(columns)})


def store_cifar10_n(root):
    """Stores CIFAR-10N in reverse order, with random_label1 on the wrong images."""
    columns = {"image": PIXELS[::-1], "label": TRUE[::-1], "id": IMAGE_IDS[::-1],
               "worse_label": WORSE[::-1], "random_label1": TRUE}
    features = {"image": IMAGE, "label": LABEL, "id": TEXT, "worse_label": LABEL,
                "random_label1": LABEL}
    store(root, "cifar10_n", "1.0.4", features, {"train": columns, "test": first_rows(columns)})


def store_mine(root, **labels):
    store(root, "mine", "1.0.0", {"image": IMAGE, "label": LABEL},
          {split: {"image": PIXELS, "label": column} for split, column in labels.items()})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    store_cifar10(root, TRUE)
    store_cifar10_n(root)
    return root


def load(root, *, noise="none", **settings):
    return load_source(Config(data_dir=str(root), noise=noise, **settings))


def load_error(root, **settings):
    """Returns the message of the UserError that loading raises, which is one line."""
    with pytest.raises(UserError) as error:
        load(root, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestCifar10N:
    def test_given_labels_are_human_and_test_labels_clean(self, root):
        source = load(root, dataset="cifar10_n", noise="worse")
        np.testing.assert_array_equal(source.train.labels, WORSE[::-1])
        np.testing.assert_array_equal(source.train.true_labels, TRUE[::-1])
        np.testing.assert_array_equal(source.train.images.array, PIXELS[::-1])
        np.testing.assert_array_equal(source.test.labels, TRUE[::-1][:TEST_COUNT])
        assert source.validation is None

    def test_human_labels_on_wrong_images_are_refused_by_their_rate(self, root):
        message = load_error(root, dataset="cifar10_n", noise="random1")
        assert "100.0 % of the random_label1s" in message and "17.2 % should be" in message

    def test_true_labels_that_differ_from_cifar10_are_refused(self, root, tmp_path):
        shutil.copytree(root / "cifar10_n", tmp_path / "cifar10_n")
        labels = TRUE.copy()
        labels[[7, 9]] = labels[[9, 7]]
        store_cifar10(tmp_path, labels)
        message = load_error(tmp_path, dataset="cifar10_n", noise="worse")
        assert "for 2 images (ids train_00009, train_00007)" in message

    def test_cifar10_is_required(self, root, tmp_path):
        shutil.copytree(root / "cifar10_n", tmp_path / "cifar10_n")
        message = load_error(tmp_path, dataset="cifar10_n", noise="worse")
        assert "lacks CIFAR-10, which CIFAR-10N is compared with" in message

    @pytest.mark.parametrize("noise, dataset", [("symmetric", "cifar10_n"), ("worse", "digits")])
    def test_noise_of_another_data_set_is_refused(self, noise, dataset):
        with pytest.raises(UserError, match=f"--noise={noise}"):
            Config(dataset=dataset, noise=noise)


def test_data_set_missing_from_default_directory_is_refused(tmp_path, monkeypatch):
    real_builder = tfds.builder

    def builder_with_other_default(name, data_dir):
        # TFDS reads its default directory when it is imported, so it cannot be changed here.
        return real_builder(name, data_dir=data_dir or str(tmp_path))

    monkeypatch.setattr(tfds, "builder", builder_with_other_default)
    message = load_error("", dataset="cifar10")
    assert message.startswith(f"--data_dir={tmp_path} lacks CIFAR-10")
    assert message.endswith("or add --download.")


@pytest.mark.parametrize("limit, storage_class", [
    (2**30, storage.ArrayImages), (0, storage.RecordImages)])
def test_data_set_by_name_is_read_into_memory_or_streamed(
        root, monkeypatch, limit, storage_class):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", limit)
    source = load(root, dataset="tfds:cifar10")
    assert isinstance(source.train.images, storage_class)
    np.testing.assert_array_equal(source.train.labels, TRUE)
    assert (source.train.true_labels == -1).all() and len(source.test) == TEST_COUNT
    record = source.train.record_names()[3]
    assert record.startswith("cifar10-train.tfrecord") and record.endswith("__3")
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 2**30)
    pixels = storage.load_into_memory(source.train.images).array
    np.testing.assert_array_equal(pixels, PIXELS)


def test_unknown_data_set_is_refused(tmp_path):
    message = load_error(tmp_path, dataset="tfds:nothing_there")
    assert f"--data_dir={tmp_path}" in message and "nothing_there" in message


def test_data_set_without_class_label_is_refused(tmp_path):
    columns = {"image": PIXELS[:3], "age": [1, 2, 3]}
    store(tmp_path, "ages", "1.0.0", {"image": IMAGE, "age": np.int64}, {"train": columns})
    message = load_error(tmp_path, dataset="tfds:ages")
    assert "age" in message and "needs an image and a class label" in message


def test_validation_replaces_test_split_without_labels(tmp_path):
    labels = WORSE % 7
    store_mine(tmp_path, train=TRUE, validation=labels, test=np.full(COUNT, -1))
    source = load(tmp_path, dataset="tfds:mine")
    np.testing.assert_array_equal(source.test.labels, labels)
    assert source.validation is None


def test_training_split_without_labels_is_refused(tmp_path):
    store_mine(tmp_path, train=np.where(TRUE == 3, -1, TRUE))
    message = load_error(tmp_path, dataset="tfds:mine")
    assert "10 of the 100 examples of the train split have no label" in message


def test_damaged_shard_is_refused(tmp_path):
    store_mine(tmp_path, train=TRUE)
    shard, = tmp_path.glob("mine/1.0.0/*tfrecord*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    message = load_error(tmp_path, dataset="tfds:mine")
    assert "the shards of train cannot be read" in message


def test_missing_test_split_is_held_out_of_train(tmp_path):
    store_mine(tmp_path, train=TRUE)
    source = load(tmp_path, dataset="tfds:mine", test_fraction=.2)
    assert (len(source.train), len(source.test)) == (80, 20)
    assert not set(source.train.ids) & set(source.test.ids)
    assert source.class_names == tuple("abcdefghij")


def test_images_are_resized_to_image_size(tmp_path):
    store_mine(tmp_path, train=TRUE)
    source = load(tmp_path, dataset="tfds:mine", image_size=16)
    assert source.train.images.shape == (16, 16, 3)


def test_survey_decodes_a_few_records_if_sizes_differ(tmp_path):
    images = [PIXELS[0], PIXELS[1, :20, :16], PIXELS[2, :20, :16]]
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": LABEL})
    dataset = tf.data.Dataset.from_generator(
        lambda: ({"image": image, "label": 1} for image in images),
        output_signature={"image": tf.TensorSpec([None, None, 3], tf.uint8),
                          "label": tf.TensorSpec([], tf.int64)})
    with quiet_tfds():
        tfds.dataset_builders.store_as_tfds_dataset(
            name="mine", version="1.0.0", features=features, data_dir=str(tmp_path),
            split_datasets={"train": dataset})
    expected = Survey(3, 10, height=20, width=16, channels=3)
    assert survey(Config(dataset="tfds:mine", data_dir=str(tmp_path))) == expected
