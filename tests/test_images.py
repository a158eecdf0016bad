"""Arrays, files and shards give the same images through one interface."""

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

COUNT, SIZE = 40, (10, 12)
ENCODED = [encode(picture(SIZE[::-1], seed)) for seed in range(COUNT)]
PIXELS = np.stack([np.asarray(picture(SIZE[::-1], seed)) for seed in range(COUNT)])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    for row, encoded in enumerate(ENCODED):
        (root / f"{row}.png").write_bytes(encoded)
    shards, lengths = [], [15, 15, 10]
    for shard, length in enumerate(lengths):
        shards.append(str(root / f"shard{shard}"))
        with tf.io.TFRecordWriter(shards[-1]) as writer:
            for encoded in ENCODED[sum(lengths[:shard]):][:length]:
                writer.write(encoded)
    return {"arrays": storage.ArrayImages(PIXELS),
            "files": storage.FileImages([f"{row}.png".encode() for row in range(COUNT)], root=str(root), size=SIZE),
            "shards": storage.RecordImages(shards, lengths, tf.identity, size=SIZE)}


@pytest.fixture(params=["arrays", "files", "shards"])
def kind(request, kinds):
    return kinds[request.param]


def split_of(kind):
    return Split(np.arange(len(kind)), np.arange(len(kind), dtype=np.int32), kind, np.arange(len(kind)).astype(str))


def batches(kind, **kwargs):
    shape = (*SIZE, 3)
    plain = transforms.Preprocess(shape, shape, lambda pixels: tf.cast(pixels, tf.float32))
    settings = dict(batch_size=8, steps_per_epoch=5, epochs=2, seed=0, augmented=False)
    return list(pipeline.training_batches(split_of(kind), plain, **{**settings, **kwargs}).as_numpy_iterator())


def ids(some):
    return np.concatenate([batch["id"] for batch in some])


def test_a_pass_sees_every_image_once_with_its_own_pixels(kind):
    epoch = batches(kind, epochs=1)
    assert sorted(ids(epoch)) == list(range(COUNT)) and list(ids(epoch)) != list(range(COUNT))
    for batch in epoch:
        np.testing.assert_array_equal(batch["image"], PIXELS[batch["id"]])
        np.testing.assert_array_equal(batch["label"], batch["id"])


@pytest.mark.parametrize("augmented", [False, True])
def test_an_epoch_is_a_pure_function_of_seed_and_number(kind, augmented):
    whole, late = batches(kind, augmented=augmented), batches(kind, augmented=augmented, first_epoch=1)
    for one, other in zip(whole[5:], late, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    assert len({tuple(order) for order in (ids(whole)[:COUNT], ids(whole)[COUNT:], ids(batches(kind, seed=1))[:COUNT],
                                           ids(batches(kind, stream=1))[:COUNT])}) == 4


def test_the_filter_is_applied_to_every_kind(kind):
    selected = np.arange(COUNT) % 4 == 0
    targets = Targets(np.arange(COUNT, dtype=np.int32), selected=selected)
    assert set(ids(batches(kind, targets=targets))) == set(range(0, COUNT, 4))


def test_taken_rows_keep_their_pixels(kind):
    rows = np.array([3, 4, 17, 18, 39])
    part = kind.take(rows)
    assert len(part) == 5
    np.testing.assert_array_equal(storage.load_into_memory(part).array, PIXELS[rows])
    epoch = batches(part, epochs=1, batch_size=5, steps_per_epoch=1)[0]
    np.testing.assert_array_equal(epoch["image"], PIXELS[rows][epoch["id"]])


def test_evaluation_is_in_order(kind):
    shape = (*SIZE, 3)
    plain = transforms.Preprocess(shape, shape, lambda pixels: tf.cast(pixels, tf.float32))
    dataset = pipeline.evaluation_batches(split_of(kind), plain, batch_size=16)
    assert int(dataset.cardinality()) == 3
    np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in dataset]), PIXELS)


def test_mean_and_digests(kind):
    np.testing.assert_allclose(kind.mean_image(), PIXELS.mean(axis=0) / 255, atol=1e-6)
    assert len(set(kind.digests().tolist())) == COUNT


def test_many_images_stay_encoded(kinds, monkeypatch):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 100)
    assert storage.load_into_memory(kinds["files"]) is kinds["files"]


def test_shards_are_read_in_an_order_of_the_key_alone(kinds, monkeypatch):
    monkeypatch.setattr(storage, "SHUFFLE_BLOCK", 8)
    key = tf.constant([1, 2])
    one, again = ([int(position) for position, _ in kinds["shards"].one_pass(key)] for _ in range(2))
    assert one == again and sorted(one) == list(range(COUNT))


def test_arrays_are_resized_if_asked(kinds):
    small = storage.ArrayImages(PIXELS, size=(5, 6))
    assert small.shape == (5, 6, 3) and small.mean_image().shape == (5, 6, 3)
    assert batches(small.take(np.arange(8)), epochs=1, steps_per_epoch=1)[0]["image"].shape == (8, 5, 6, 3)


def test_a_crop_is_of_the_middle_or_with_augmentation_anywhere():
    stored, shape = (10, 12, 3), (6, 8, 3)
    plain = transforms.Preprocess(stored, shape, lambda pixels: tf.cast(pixels, tf.float32))
    np.testing.assert_array_equal(plain(PIXELS[:2]), PIXELS[:2, 2:8, 2:10])
    possible = {np.ascontiguousarray(view).tobytes() for top in range(5) for left in range(5)
                for crop in [PIXELS[0, top:top + 6, left:left + 8].astype(np.float32)] for view in (crop, crop[:, ::-1])}
    seen = {plain.augmented(tf.constant(PIXELS[0]), [0, draw]).numpy().tobytes() for draw in range(40)}
    assert seen <= possible and len(seen) > 20


def test_names_with_spaces_and_other_letters(tmp_path):
    name = "ein Foto für Zoë, 写真.png"
    (tmp_path / name).write_bytes(ENCODED[0])
    some = storage.FileImages([os.fsencode(name)], root=str(tmp_path), size=SIZE)
    np.testing.assert_array_equal(storage.load_into_memory(some).array[0], PIXELS[0])


@pytest.mark.parametrize("change, message", [
    (dict(labels=np.array([0, 7, 1])), "the test split's labels have 7: they must be 0 to 1"),
    (dict(labels=np.array([0., 1, 1])), "labels are float64"), (dict(labels=[0, 1, 1]), "labels are no NumPy array"),
    (dict(true_labels=np.array([-2, 0, 1])), "true_labels have -2"),
    (dict(ids=np.array([0, 2, 2])), "ids do not ascend"), (dict(ids=np.array([-1, 0, 1])), "ids do not ascend"),
    (dict(records=np.array(["a", "b"])), "differ in length .*records 2.*images 3"),
    (dict(images=storage.ArrayImages(np.ones([3, 4, 4, 3], np.float32))), "images are float32: they must be uint8"),
    (dict(images=storage.ArrayImages(PIXELS[:3, ..., 0])), r"images have shape \(3, 10, 12\)"),
    (dict(images=storage.ArrayImages(PIXELS[:3, ..., :2])), r"images have shape \(3, 10, 12, 2\)"),
    (None, "the test split's type is NoneType")])
def test_what_a_users_function_returns_is_looked_at(monkeypatch, change, message):
    columns = dict(ids=np.arange(3), labels=np.array([0, 1, 1]), images=storage.ArrayImages(PIXELS[:3]),
                   records=np.array(["a", "b", "c"]))
    good, bad = Split(**columns), None if change is None else Split(**{**columns, **change})
    returned = [Source(("even", "odd"), good, good), Source(("even", "odd"), good, bad), Source(("even",), good, good)]
    monkeypatch.setattr(user_function, "call_function", lambda *_, **__: returned.pop(0))
    config = Config(dataset="mine:data", noise="none")
    assert load_source(config).test is good
    with pytest.raises(UserError, match=f"--dataset=mine:data.*{message}"):
        load_source(config)
    with pytest.raises(UserError, match="--dataset=mine:data: class_names has 1"):
        load_source(config)
