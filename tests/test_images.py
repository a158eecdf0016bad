"""Arrays, files and record shards provide the same images through one interface."""

import os

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.config import Config, UserError
from mlnt_tf.data import pipeline, transforms
from mlnt_tf.data.images import storage
from mlnt_tf.data.sources import load_source, user_function
from mlnt_tf.data.splits import Source, Split
from mlnt_tf.data.targets import Targets

from pictures import encode, picture

COUNT = 40
SIZE = (10, 12)  # height, width
PICTURES = [picture(SIZE[::-1], seed) for seed in range(COUNT)]
ENCODED = [encode(image) for image in PICTURES]
PIXELS = np.stack([np.asarray(image) for image in PICTURES])
SHARD_LENGTHS = [15, 15, 10]


@pytest.fixture(scope="module")
def all_storages(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    names = [f"{row}.png" for row in range(COUNT)]
    for name, encoded in zip(names, ENCODED):
        (root / name).write_bytes(encoded)
    records, shards = iter(ENCODED), []
    for number, length in enumerate(SHARD_LENGTHS):
        shards.append(str(root / f"shard{number}"))
        with tf.io.TFRecordWriter(shards[-1]) as writer:
            for _ in range(length):
                writer.write(next(records))
    return {"arrays": storage.ArrayImages(PIXELS),
            "files": storage.FileImages([name.encode() for name in names], root=str(root),
                                        size=SIZE),
            "shards": storage.RecordImages(shards, SHARD_LENGTHS, tf.identity, size=SIZE)}


@pytest.fixture(params=["arrays", "files", "shards"])
def images(request, all_storages):
    return all_storages[request.param]


def make_split(images):
    rows = np.arange(len(images))
    return Split(rows, rows.astype(np.int32), images, rows.astype(str))


def make_preprocess(stored=(*SIZE, 3), shape=(*SIZE, 3)):
    return transforms.Preprocess(stored, shape, lambda pixels: tf.cast(pixels, tf.float32))


def training_batches(images, **settings):
    defaults = dict(batch_size=8, steps_per_epoch=5, epochs=2, seed=0, augmented=False)
    preprocess = make_preprocess(images.shape, images.shape)
    dataset = pipeline.training_batches(
        make_split(images), preprocess, **{**defaults, **settings})
    return list(dataset.as_numpy_iterator())


def concatenate_ids(batches):
    return np.concatenate([batch["id"] for batch in batches])


def test_epoch_has_every_image_once_in_random_order(images):
    batches = training_batches(images, epochs=1)
    ids = concatenate_ids(batches).tolist()
    assert sorted(ids) == list(range(COUNT)) and ids != list(range(COUNT))
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], PIXELS[batch["id"]])
        np.testing.assert_array_equal(batch["label"], batch["id"])


@pytest.mark.parametrize("augmented", [False, True])
def test_epoch_depends_only_on_seed_and_its_number(images, augmented):
    complete = training_batches(images, augmented=augmented)
    resumed = training_batches(images, augmented=augmented, first_epoch=1)
    for one, other in zip(complete[5:], resumed, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_epochs_seeds_and_streams_have_different_orders(images):
    two_epochs = concatenate_ids(training_batches(images))
    other_seed = concatenate_ids(training_batches(images, seed=1, epochs=1))
    other_stream = concatenate_ids(training_batches(images, stream=1, epochs=1))
    orders = (two_epochs[:COUNT], two_epochs[COUNT:], other_seed, other_stream)
    assert len({tuple(order) for order in orders}) == 4


def test_selection_leaves_out_the_other_images(images):
    selected = np.arange(COUNT) % 4 == 0
    targets = Targets(np.arange(COUNT, dtype=np.int32), selected=selected)
    ids = concatenate_ids(training_batches(images, targets=targets))
    assert set(ids) == set(range(0, COUNT, 4))


def test_taken_rows_have_their_pixels(images):
    rows = np.array([3, 4, 17, 18, 39])
    taken = images.take(rows)
    assert len(taken) == 5
    np.testing.assert_array_equal(storage.load_into_memory(taken).array, PIXELS[rows])
    batch = training_batches(taken, epochs=1, batch_size=5, steps_per_epoch=1)[0]
    np.testing.assert_array_equal(batch["image"], PIXELS[rows][batch["id"]])


def test_evaluation_is_in_order(images):
    dataset = pipeline.evaluation_batches(make_split(images), make_preprocess(), batch_size=16)
    assert int(dataset.cardinality()) == 3
    evaluated = np.concatenate([batch["image"] for batch in dataset])
    np.testing.assert_array_equal(evaluated, PIXELS)


def test_mean_image_is_mean_of_pixels(images):
    np.testing.assert_allclose(images.mean_image(), PIXELS.mean(axis=0) / 255, atol=1e-6)


def test_digests_differ_between_images_and_agree_for_equal_ones(images):
    digests = images.digests()
    assert digests.dtype == np.int64 and len(set(digests.tolist())) == COUNT
    np.testing.assert_array_equal(images.take(np.array([2, 7])).digests(), digests[[2, 7]])


def test_large_data_set_is_not_decoded_into_memory(all_storages, monkeypatch):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 100)
    files = all_storages["files"]
    assert storage.load_into_memory(files) is files


def test_order_of_shards_depends_only_on_key(all_storages, monkeypatch):
    monkeypatch.setattr(storage, "SHUFFLE_BLOCK", 8)

    def read_positions(key):
        return [int(position) for position, _ in all_storages["shards"].shuffled(key)]

    positions = read_positions(tf.constant([1, 2]))
    assert sorted(positions) == list(range(COUNT))
    assert read_positions(tf.constant([1, 2])) == positions
    assert read_positions(tf.constant([1, 3])) != positions


def test_arrays_are_resized_when_read():
    resized = storage.ArrayImages(PIXELS, size=(5, 6))
    assert resized.shape == (5, 6, 3) and resized.mean_image().shape == (5, 6, 3)
    batch = training_batches(resized.take(np.arange(8)), epochs=1, steps_per_epoch=1)[0]
    assert batch["image"].shape == (8, 5, 6, 3)


def test_crop_is_centered_in_evaluation():
    preprocess = make_preprocess(stored=(10, 12, 3), shape=(6, 8, 3))
    np.testing.assert_array_equal(preprocess(PIXELS[:2]), PIXELS[:2, 2:8, 2:10])


def test_augmentation_crops_stored_image_anywhere_and_may_flip_it():
    preprocess = make_preprocess(stored=(10, 12, 3), shape=(6, 8, 3))
    possible = set()
    for top in range(5):
        for left in range(5):
            crop = PIXELS[0, top:top + 6, left:left + 8].astype(np.float32)
            possible |= {crop.tobytes(), crop[:, ::-1].tobytes()}
    augmented = {preprocess.augment(tf.constant(PIXELS[0]), [0, draw]).numpy().tobytes()
                 for draw in range(40)}
    assert augmented <= possible and len(augmented) > 20


def test_file_names_may_have_spaces_and_non_ascii_letters(tmp_path):
    name = "ein Foto für Zoë, 写真.png"
    (tmp_path / name).write_bytes(ENCODED[0])
    files = storage.FileImages([os.fsencode(name)], root=str(tmp_path), size=SIZE)
    np.testing.assert_array_equal(storage.load_into_memory(files).array[0], PIXELS[0])


class TestUserFunction:
    """--dataset=package.module:function."""

    COLUMNS = dict(ids=np.arange(3), labels=np.array([0, 1, 1]),
                   images=storage.ArrayImages(PIXELS[:3]), records=np.array(["a", "b", "c"]))

    def load(self, monkeypatch, source):
        monkeypatch.setattr(user_function, "call_function", lambda *_, **__: source)
        return load_source(Config(dataset="mine:data", noise="none"))

    def test_valid_source_is_returned(self, monkeypatch):
        split = Split(**self.COLUMNS)
        source = Source(("even", "odd"), split, split)
        assert self.load(monkeypatch, source) is source

    @pytest.mark.parametrize("change, message", [
        (dict(labels=np.array([0, 7, 1])), "labels contain 7. They must be 0 to 1"),
        (dict(labels=np.array([0., 1, 1])), "labels have dtype float64"),
        (dict(labels=[0, 1, 1]), "labels are not a NumPy array"),
        (dict(true_labels=np.array([-2, 0, 1])), "true_labels contain -2"),
        (dict(ids=np.array([0, 2, 2])), "ids are not ascending"),
        (dict(ids=np.array([-1, 0, 1])), "ids are not ascending"),
        (dict(records=np.array(["a", "b"])), "columns differ in length .*records 2.*images 3"),
        (dict(images=storage.ArrayImages(np.ones([3, 4, 4, 3], np.float32))),
         "images have dtype float32. They must be uint8"),
        (dict(images=storage.ArrayImages(PIXELS[:3, ..., 0])), r"images have shape \(3, 10, 12\)"),
        (dict(images=storage.ArrayImages(PIXELS[:3, ..., :2])),
         r"images have shape \(3, 10, 12, 2\)")])
    @pytest.mark.parametrize("name", ["validation", "test"])
    def test_invalid_split_is_refused(self, monkeypatch, name, change, message):
        good, bad = Split(**self.COLUMNS), Split(**{**self.COLUMNS, **change})
        source = Source(("even", "odd"), **{"train": good, "test": good, name: bad})
        with pytest.raises(UserError, match=f"--dataset=mine:data returned a {name} split whose "
                                            f"{message}"):
            self.load(monkeypatch, source)

    def test_missing_test_split_is_refused(self, monkeypatch):
        source = Source(("even", "odd"), Split(**self.COLUMNS), None)
        with pytest.raises(UserError, match="a test split whose type is NoneType"):
            self.load(monkeypatch, source)

    def test_single_class_is_refused(self, monkeypatch):
        split = Split(**self.COLUMNS)
        with pytest.raises(UserError, match="--dataset=mine:data returned 1 class names"):
            self.load(monkeypatch, Source(("even",), split, split))
