"""Mixup of pairs of examples, and its independence of how a batch is divided."""

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf.config import Config, UserError
from mlnt_tf.data import pipeline, transforms
from mlnt_tf.data.images.storage import ArrayImages
from mlnt_tf.data.mixup import Mixup
from mlnt_tf.data.splits import Split
from mlnt_tf.data.targets import Targets
from mlnt_tf.hardware import planning

SHAPE = (4, 4, 1)
IDS = np.arange(24)
LABELS = (IDS % 3).astype(np.int32)
PIXELS = np.random.default_rng(0).integers(256, size=[24, *SHAPE], dtype=np.uint8)
SPLIT = Split(IDS, LABELS, ArrayImages(PIXELS), IDS.astype(str))
PREPROCESS = transforms.Preprocess(SHAPE, SHAPE, transforms.Normalizer(np.zeros(SHAPE, np.float32)))


def batches(mixup=Mixup(4.0, 3), **kwargs):
    arguments = dict(batch_size=8, steps_per_epoch=3, epochs=2, seed=1, augmented=False) | kwargs
    return list(pipeline.training_batches(SPLIT, PREPROCESS, mixup=mixup, **arguments)
                .as_numpy_iterator())


def test_pairs_by_hand():
    batch = {"image": tf.constant([[1.], [3.], [5.], [9.]]), "label": tf.constant([0, 1, 1, 0]),
             "weight": tf.constant([1., 0, 1, 1]), "mixup_weight": tf.constant([1., .5, .75, .5])}
    mixed = Mixup(1.0, 2).mix_pairs(batch)
    np.testing.assert_allclose(mixed["image"][:, 0], [1, 2, 6, 7])
    np.testing.assert_allclose(mixed["probabilities"], [[1, 0], [.5, .5], [.25, .75], [.5, .5]])
    np.testing.assert_allclose(mixed["weight"], [1, .5, 1, 1])
    np.testing.assert_array_equal(mixed["label"], [0, 1, 1, 0])
    assert "mixup_weight" not in mixed


def test_last_example_of_an_odd_batch_is_not_mixed():
    batch = {"image": tf.constant([[1.], [3.], [5.]]), "label": tf.constant([0, 1, 1]),
             "mixup_weight": tf.fill([3], .5)}
    np.testing.assert_allclose(Mixup(1.0, 2).mix_pairs(batch)["image"][:, 0], [2, 2, 5])


def test_weights_follow_the_folded_beta_distribution():
    draw = tf.function(Mixup(4.0, 3).draw)
    weights = np.array([draw(tf.constant([0, index])) for index in range(400)])
    assert weights.min() >= .5 and weights.max() <= 1
    # Beta(4, 4) folded at 0.5 has mean 0.637 and standard deviation 0.095.
    assert abs(weights.mean() - .637) < .02


def test_small_alpha_draws_finite_weights():
    draw = tf.function(Mixup(1e-3, 3).draw)
    weights = np.array([draw(tf.constant([0, index])) for index in range(50)])
    assert np.isfinite(weights).all() and weights.min() >= .5


def test_mixed_batches_keep_the_order_of_unmixed_ones():
    for mixed, plain in zip(batches(), batches(mixup=None)):
        np.testing.assert_array_equal(mixed["position"], plain["position"])
        np.testing.assert_array_equal(mixed["label"], plain["label"])
        np.testing.assert_allclose(mixed["probabilities"].sum(axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(mixed["probabilities"].argmax(axis=1), plain["label"])
        own = mixed["probabilities"][np.arange(8), plain["label"]]
        partner = plain["image"].reshape(4, 2, -1)[:, ::-1].reshape(8, -1)
        image, mixed_image = plain["image"].reshape(8, -1), mixed["image"].reshape(8, -1)
        different = plain["label"] != plain["label"].reshape(4, 2)[:, ::-1].reshape(8)
        expected = own[:, None] * image + (1 - own[:, None]) * partner
        np.testing.assert_allclose(mixed_image[different], expected[different], atol=1e-5)


def test_soft_targets_are_mixed_too():
    soft = np.random.default_rng(1).dirichlet([1, 1, 1], size=24).astype(np.float32)
    for batch in batches(targets=Targets(LABELS, probabilities=soft)):
        np.testing.assert_allclose(batch["probabilities"].sum(axis=1), 1, atol=1e-6)
        assert not np.allclose(batch["probabilities"], soft[batch["position"]])


def test_resume_in_an_epoch_gives_the_same_mixed_batches():
    resumed = batches(first_epoch=0, first_step=2)
    for batch, expected in zip(resumed, batches()[2:], strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name], value)


def test_two_workers_see_the_mixed_batch_of_one():
    parts = [batches(worker=(index, 2)) for index in range(2)]
    for first, second, expected in zip(*parts, batches()):
        for name, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([first[name], second[name]]), value)


def test_odd_batches_are_refused():
    with pytest.raises(UserError, match="--batch_size=9 is odd"):
        Config(mixup=.5, batch_size=9)
    with pytest.raises(UserError, match="each of 2 replicas an odd number"):
        planning.plan_devices(Config(mixup=.5, batch_size=10, logical_devices=2))
