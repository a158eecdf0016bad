import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.data import pipeline, transforms
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.splits import Split
from mlnt_tf.data.targets import Targets

COUNT = 20
IMAGES = np.random.default_rng(0).integers(256, size=[COUNT, 8, 8, 1], dtype=np.uint8)
GIVEN, TRUE = (((np.arange(COUNT) + shift) % 3).astype(np.int32) for shift in (1, 0))
SPLIT = Split(ids=np.arange(COUNT) + 100, labels=GIVEN, images=ArrayImages(IMAGES), true_labels=TRUE,
              records=np.array([f"r{i}" for i in range(COUNT)]))
PLAIN = transforms.Preprocess((8, 8, 1), (8, 8, 1), transforms.Normalizer(np.zeros([8, 8, 1], np.float32)))


def batches(**kwargs):
    settings = dict(batch_size=4, steps_per_epoch=5, epochs=2, seed=0, augmented=False)
    return list(pipeline.training_batches(SPLIT, PLAIN, **{**settings, **kwargs}).as_numpy_iterator())


def ids(some):
    return np.concatenate([batch["id"] for batch in some])


def test_an_epoch_sees_every_example_once_with_its_own_image_and_label():
    epoch = batches(epochs=1)
    assert sorted(ids(epoch)) == list(range(100, 120))
    for batch in epoch:
        rows = batch["id"] - 100
        np.testing.assert_allclose(batch["image"], IMAGES[rows] / 255, atol=1e-6)
        np.testing.assert_array_equal(batch["label"], GIVEN[rows])
        np.testing.assert_array_equal(batch["true_label"], TRUE[rows])
    assert (epoch[0]["id"].dtype, epoch[0]["label"].dtype) == (np.int64, np.int32)


def test_epochs_seeds_and_streams_differ_in_order():
    orders = [ids(batches())[:20], ids(batches())[20:], ids(batches(seed=1))[:20], ids(batches(stream=1))[:20]]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("augmented", [False, True])
def test_an_epoch_is_a_pure_function_of_seed_and_number(augmented):
    whole, late = batches(augmented=augmented), batches(augmented=augmented, first_epoch=1)
    for one, other in zip(whole[5:], late, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_a_true_label_that_is_unknown_leaves_them_all_out():
    import dataclasses

    split = dataclasses.replace(SPLIT, true_labels=np.where(np.arange(COUNT) == 3, -1, TRUE).astype(np.int32))
    batch = next(iter(pipeline.training_batches(split, PLAIN, batch_size=4, steps_per_epoch=1, epochs=1, seed=0,
                                                augmented=False)))
    assert set(batch) == {"id", "position", "image", "label"}


@pytest.mark.parametrize("first_step", [1, 4, 5])
def test_an_epoch_can_be_entered_at_any_step(first_step):
    whole, late = batches(augmented=True, epochs=3), batches(augmented=True, epochs=3, first_epoch=1,
                                                             first_step=first_step)
    for one, other in zip(whole[5 + first_step:], late, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_cardinality_is_known():
    dataset = pipeline.training_batches(SPLIT, PLAIN, batch_size=4, steps_per_epoch=7, epochs=3, seed=0,
                                        augmented=False)
    assert int(dataset.cardinality()) == 21


def test_an_epoch_longer_than_the_data_goes_round_again():
    counts = np.bincount(ids(batches(steps_per_epoch=12, epochs=1)) - 100, minlength=COUNT)
    assert counts.sum() == 48 and set(counts) == {2, 3}


def test_a_small_selection_is_repeated_until_the_epoch_is_full():
    selected = np.isin(np.arange(COUNT), [10, 11, 12])
    kept = ids(batches(targets=Targets(GIVEN, selected=selected), epochs=1))
    assert set(kept) == {110, 111, 112} and len(kept) == 20


def test_targets_become_columns_of_the_batch():
    draws = np.random.default_rng(2)
    targets = Targets(GIVEN, probabilities=draws.random([COUNT, 3], np.float32), weights=draws.random(COUNT, np.float32))
    for batch in batches(targets=targets, epochs=1):
        rows = batch["id"] - 100
        np.testing.assert_array_equal(batch["probabilities"], targets.probabilities[rows])
        np.testing.assert_array_equal(batch["weight"], targets.weights[rows])
        np.testing.assert_array_equal(batch["label"], GIVEN[rows])


def test_neighbours_of_a_table_bring_their_given_labels():
    table = np.random.default_rng(1).integers(COUNT, size=[COUNT, 3]).astype(np.int32)
    for batch in batches(neighbors=table):
        np.testing.assert_array_equal(batch["neighbor_labels"], GIVEN[table[batch["id"] - 100]])


def test_neighbours_within_the_batch_against_a_full_comparison():
    features = np.random.default_rng(2).normal(size=[COUNT, 5]).astype(np.float32)
    for batch in batches(features=features, num_neighbors=2, batch_size=10, steps_per_epoch=2):
        rows = batch["id"] - 100
        distance = ((features[rows][:, None] - features[rows][None]) ** 2).sum(axis=-1)
        np.fill_diagonal(distance, np.inf)
        np.testing.assert_array_equal(batch["neighbor_labels"], batch["label"][distance.argsort(axis=1)[:, :2]])


def test_features_on_disk_give_the_same_neighbours(tmp_path):
    features = np.random.default_rng(2).normal(size=[COUNT, 5]).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    for one, other in zip(batches(features=features, num_neighbors=2), batches(features=mapped, num_neighbors=2)):
        np.testing.assert_array_equal(one["neighbor_labels"], other["neighbor_labels"])


def test_workers_each_take_their_slice_of_the_same_batches():
    table = np.random.default_rng(1).integers(COUNT, size=[COUNT, 3]).astype(np.int32)
    whole = batches(neighbors=table, augmented=True)
    parts = [batches(neighbors=table, augmented=True, worker=(index, 2)) for index in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([half[key] for half in halves]))
    with pytest.raises(ValueError, match="3 workers"):
        batches(worker=(0, 3))


def test_a_duplicate_is_a_neighbour_but_a_sample_never_its_own():
    features = tf.constant([[0.0], [0.0], [5.0]])
    found = pipeline.batch_neighbor_labels(features, tf.constant([7, 8, 9]), tf.constant([10, 11, 12]), 1)
    np.testing.assert_array_equal(found[:2, 0], [11, 10])


def test_neighbours_far_from_the_origin_are_exact():
    features = (np.random.default_rng(3).normal(size=[64, 16]) + 1000).astype(np.float32)
    distance = ((features[:, None].astype(np.float64) - features[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distance, np.inf)
    found = pipeline.batch_neighbor_labels(tf.constant(features), tf.range(64), tf.range(64), 5)
    np.testing.assert_array_equal(found, distance.argsort(axis=1)[:, :5])


def test_normalizer_subtracts_the_mean_image():
    normalizer = transforms.Normalizer(SPLIT.images.mean_image())
    np.testing.assert_allclose(normalizer(IMAGES).numpy().mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(normalizer.mean_image, IMAGES.mean(axis=0) / 255, atol=1e-6)


def test_augmentation_is_a_shift_of_the_padded_image_perhaps_flipped():
    image = IMAGES[0].astype(np.float32) / 255
    padded = np.pad(image, [[4, 4], [4, 4], [0, 0]])
    possible = {view.tobytes() for top in range(9) for left in range(9)
                for crop in [padded[top:top + 8, left:left + 8]]
                for view in (np.ascontiguousarray(crop), np.ascontiguousarray(crop[:, ::-1]))}
    seen = {PLAIN.augmented(tf.constant(IMAGES[0]), [0, draw]).numpy().tobytes() for draw in range(60)}
    assert seen <= possible and len(seen) > 30


def test_evaluation_keeps_order_and_the_last_small_batch():
    dataset = pipeline.evaluation_batches(SPLIT, PLAIN, batch_size=8)
    assert int(dataset.cardinality()) == 3
    seen = list(dataset.as_numpy_iterator())
    np.testing.assert_array_equal(ids(seen), SPLIT.ids)
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in seen]), GIVEN)


def test_two_streams_stand_side_by_side():
    one = pipeline.training_batches(SPLIT, PLAIN, batch_size=4, steps_per_epoch=5, epochs=1, seed=0,
                                    augmented=False)
    element = next(iter(pipeline.two_streams(one, one)))
    assert set(element) == {"meta", "classification"}


def test_the_end_of_an_iteration_waits_for_no_tuner():
    training = pipeline.training_batches(SPLIT, PLAIN, batch_size=4, steps_per_epoch=5, epochs=1, seed=0, augmented=False)
    for dataset in (training, pipeline.two_streams(training, training), pipeline.evaluation_batches(SPLIT, PLAIN, batch_size=3)):
        assert dataset.options().autotune.enabled is False
