"""The input pipeline of training and evaluation."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.data import pipeline, transforms
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Split
from mlnt_tf.data.targets import Targets

COUNT = 20
FIRST_ID = 100
IMAGES = np.random.default_rng(0).integers(256, size=[COUNT, 8, 8, 1], dtype=np.uint8)
TRUE = (np.arange(COUNT) % 3).astype(np.int32)
GIVEN = ((np.arange(COUNT) + 1) % 3).astype(np.int32)
SPLIT = Split(ids=np.arange(COUNT) + FIRST_ID, labels=GIVEN, images=ArrayImages(IMAGES),
              true_labels=TRUE, records=np.array([f"r{i}" for i in range(COUNT)]))
PLAIN = transforms.Preprocess(
    (8, 8, 1), (8, 8, 1), transforms.Normalizer(np.zeros([8, 8, 1], np.float32)))
FEATURES = np.random.default_rng(2).normal(size=[COUNT, 5]).astype(np.float32)
NEIGHBORS = np.random.default_rng(1).integers(COUNT, size=[COUNT, 3]).astype(np.int32)


def training_dataset(split=SPLIT, **settings):
    defaults = dict(batch_size=4, steps_per_epoch=5, epochs=1, seed=0, augmented=False)
    return pipeline.training_batches(split, PLAIN, **{**defaults, **settings})


def training_batches(**settings):
    return list(training_dataset(**settings).as_numpy_iterator())


def concatenate_ids(batches):
    return np.concatenate([batch["id"] for batch in batches])


def assert_equal_batches(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def distances_to_others(features):
    """Returns the squared distances of all pairs, [n, n], and infinity on the diagonal."""
    features = features.astype(np.float64)
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    return distances


def test_epoch_has_every_example_once_with_its_image_and_labels():
    batches = training_batches()
    assert sorted(concatenate_ids(batches)) == list(range(100, 120))
    for batch in batches:
        rows = batch["id"] - FIRST_ID
        np.testing.assert_array_equal(batch["position"], rows)
        np.testing.assert_allclose(batch["image"], IMAGES[rows] / 255, atol=1e-6)
        np.testing.assert_array_equal(batch["label"], GIVEN[rows])
        np.testing.assert_array_equal(batch["true_label"], TRUE[rows])
    dtypes = {name: column.dtype for name, column in batches[0].items()}
    assert dtypes == {"id": np.int64, "position": np.int32, "image": np.float32,
                      "label": np.int32, "true_label": np.int32}


def test_batch_lacks_true_labels_unless_all_are_known():
    true_labels = np.where(np.arange(COUNT) == 3, -1, TRUE).astype(np.int32)
    batch = training_batches(split=dataclasses.replace(SPLIT, true_labels=true_labels))[0]
    assert set(batch) == {"id", "position", "image", "label"}


@pytest.mark.parametrize("first_step", [1, 4, 5])
def test_training_can_start_at_any_step_of_an_epoch(first_step):
    complete = training_batches(augmented=True, epochs=3)
    resumed = training_batches(augmented=True, epochs=3, first_epoch=1, first_step=first_step)
    assert_equal_batches(resumed, complete[5 + first_step:])


def test_cardinality_is_number_of_batches():
    assert int(training_dataset(steps_per_epoch=7, epochs=3).cardinality()) == 21


def test_long_epoch_passes_over_data_several_times():
    ids = concatenate_ids(training_batches(steps_per_epoch=12))
    counts = np.bincount(ids - FIRST_ID, minlength=COUNT)
    assert counts.sum() == 48 and set(counts) == {2, 3}


def test_small_selection_is_repeated_until_epoch_is_full():
    selected = np.isin(np.arange(COUNT), [10, 11, 12])
    ids = concatenate_ids(training_batches(targets=Targets(GIVEN, selected=selected)))
    assert set(ids) == {110, 111, 112} and len(ids) == 20


def test_targets_become_columns_of_batch():
    draws = np.random.default_rng(2)
    labels = (2 - GIVEN).astype(np.int32)
    targets = Targets(labels, probabilities=draws.random([COUNT, 3], np.float32),
                      weights=draws.random(COUNT, np.float32))
    for batch in training_batches(targets=targets):
        rows = batch["id"] - FIRST_ID
        np.testing.assert_array_equal(batch["label"], labels[rows])
        np.testing.assert_array_equal(batch["probabilities"], targets.probabilities[rows])
        np.testing.assert_array_equal(batch["weight"], targets.weights[rows])


def test_neighbor_labels_are_given_labels_of_neighbors():
    for batch in training_batches(neighbors=NEIGHBORS, epochs=2):
        rows = batch["id"] - FIRST_ID
        np.testing.assert_array_equal(batch["neighbor_labels"], GIVEN[NEIGHBORS[rows]])


def test_neighbors_in_batch_match_sorted_distances():
    batches = training_batches(
        features=FEATURES, num_neighbors=2, batch_size=10, steps_per_epoch=2, epochs=2)
    for batch in batches:
        nearest = distances_to_others(FEATURES[batch["id"] - FIRST_ID]).argsort(axis=1)[:, :2]
        np.testing.assert_array_equal(batch["neighbor_labels"], batch["label"][nearest])


def test_features_on_disk_give_same_neighbors(tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    on_disk = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert_equal_batches(training_batches(features=on_disk, num_neighbors=2),
                         training_batches(features=FEATURES, num_neighbors=2))


def test_workers_receive_slices_of_same_batches():
    settings = dict(neighbors=NEIGHBORS, augmented=True, epochs=2)
    complete = training_batches(**settings)
    first = training_batches(**settings, worker=(0, 2))
    second = training_batches(**settings, worker=(1, 2))
    joined = [{name: np.concatenate([one[name], other[name]]) for name in one}
              for one, other in zip(first, second, strict=True)]
    assert_equal_batches(joined, complete)


@pytest.mark.parametrize("settings, message", [
    (dict(worker=(0, 3)), "batch_size=4 must be divisible by the 3 workers"),
    (dict(worker=(0, 2), features=FEATURES), "cannot be searched within a worker's slice")])
def test_workers_that_cannot_share_batches_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        training_dataset(**settings)


def test_duplicate_is_neighbor_but_example_is_not_its_own():
    features = tf.constant([[0.0], [0.0], [5.0]])
    labels = pipeline.batch_neighbor_labels(
        features, tf.constant([7, 8, 9]), tf.constant([10, 11, 12]), 1)
    np.testing.assert_array_equal(labels[:2, 0], [11, 10])


def test_neighbors_far_from_origin_are_exact():
    features = (np.random.default_rng(3).normal(size=[64, 16]) + 1000).astype(np.float32)
    nearest = pipeline.batch_neighbor_labels(
        tf.constant(features), tf.range(64), tf.range(64), 5)
    np.testing.assert_array_equal(nearest, distances_to_others(features).argsort(axis=1)[:, :5])


def test_normalizer_subtracts_mean_image():
    normalizer = transforms.Normalizer(SPLIT.images.mean_image())
    np.testing.assert_allclose(normalizer.mean_image, IMAGES.mean(axis=0) / 255, atol=1e-6)
    np.testing.assert_allclose(normalizer(IMAGES).numpy().mean(axis=0), 0, atol=1e-6)


def test_augmentation_shifts_padded_image_and_may_flip_it():
    padded = np.pad(IMAGES[0].astype(np.float32) / 255, [[4, 4], [4, 4], [0, 0]])
    possible = set()
    for top in range(9):
        for left in range(9):
            crop = padded[top:top + 8, left:left + 8]
            possible |= {crop.tobytes(), crop[:, ::-1].tobytes()}
    augmented = {PLAIN.augment(tf.constant(IMAGES[0]), [0, draw]).numpy().tobytes()
                 for draw in range(60)}
    assert augmented <= possible and len(augmented) > 30


def test_evaluation_keeps_order_and_small_last_batch():
    dataset = pipeline.evaluation_batches(SPLIT, PLAIN, batch_size=8)
    assert int(dataset.cardinality()) == 3
    batches = list(dataset.as_numpy_iterator())
    assert [len(batch["id"]) for batch in batches] == [8, 8, 4]
    np.testing.assert_array_equal(concatenate_ids(batches), SPLIT.ids)
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels, GIVEN)


def test_two_streams_have_batches_of_their_own():
    meta, classification = training_dataset(), training_dataset(stream=1)
    zipped = list(pipeline.two_streams(meta, classification).as_numpy_iterator())
    assert_equal_batches([step["meta"] for step in zipped], training_batches())
    assert_equal_batches([step["classification"] for step in zipped], training_batches(stream=1))


def test_pipeline_runs_without_autotuner():
    training = training_dataset()
    for dataset in (training, pipeline.two_streams(training, training),
                    pipeline.evaluation_batches(SPLIT, PLAIN, batch_size=3)):
        assert dataset.options().autotune.enabled is False
