"""--synthetic=expected: one inner step on the mean of all synthetic label sets."""

import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf
from mlnt_tf import losses
from mlnt_tf.meta import objective, replicated, synthetic

import tiny

RATES = dict(learning_rate=.2, meta_rate=.4, momentum=.9, weight_decay=1e-4)
SIGMOID_1 = 1 / (1 + np.exp(-1.0))
TEACHER = tf.constant([[1 - SIGMOID_1, SIGMOID_1]], tf.float32)


def identity(gradients):
    """The `reduce` of a single replica."""
    return gradients


def scalar_forward(weights, images):
    return tf.stack([tf.zeros([1]), tf.reshape(weights[0], [1])], axis=1)


def new_model(**kwargs):
    model = mlnt_tf.MLNT(tiny.dense(), **{"inner_rate": .2, **kwargs})
    model.compile(**RATES)
    return model


def fit(model, steps=1, **kwargs):
    model.fit(tiny.dataset(steps), verbose=0, shuffle=False, **kwargs)
    return model


def test_expected_labels_by_hand():
    labels = synthetic.expected_labels(
        tf.constant([0, 1]), tf.constant([[1, 1, 2, 0], [1, 1, 1, 1]]), 1, num_classes=3)
    np.testing.assert_allclose(labels, [[.625, .25, .125], [0, 1, 0]])


def sampled_label_sets(batch, count, number):
    """Returns the first label sets of a step, int32 [number, batch]."""
    def draw(m):
        return synthetic.transfer_labels(batch["label"], batch["neighbor_labels"], count, seed=0,
                                         step=0, m=m)

    return tf.function(lambda: tf.map_fn(draw, tf.range(number)))()


def test_expected_labels_are_the_mean_of_the_sampled_sets():
    batch = tiny.batch()
    sampled = tf.one_hot(sampled_label_sets(batch, 4, 1000), 3)
    expected = synthetic.expected_labels(batch["label"], batch["neighbor_labels"], 4,
                                         num_classes=3)
    # The standard deviation of each mean is at most 0.016.
    np.testing.assert_allclose(tf.reduce_mean(sampled, axis=0), expected, atol=.065)


@pytest.mark.parametrize("order, expected", [("first", -.114372), ("full", -.108996)])
@pytest.mark.parametrize("algorithm", [objective, replicated])
def test_meta_gradient_with_expected_labels_by_hand(algorithm, order, expected):
    """The scalar example with theta = 0.5, alpha = 0.2 and y_bar = 0.5."""
    (gradient,), consistency = algorithm.meta_gradient(
        scalar_forward, [tf.constant(.5)], tf.zeros([1, 1]), TEACHER,
        lambda m: tf.constant([[.5, .5]]), num_synthetic=1, inner_rate=.2, order=order,
        reduce=identity, inner_loss=losses.SOFT_CROSS_ENTROPY)
    assert float(gradient) == pytest.approx(expected, abs=1e-6)
    assert float(consistency) == pytest.approx(.029075, abs=1e-6)


def test_inner_gradient_is_the_mean_of_the_sampled_ones():
    network, batch = tiny.dense(), tiny.batch()
    weights = [tf.convert_to_tensor(weight) for weight in network.trainable_variables]

    def forward(weights, images):
        return network.stateless_call(weights, [], images)[0]

    def gradient(labels, inner_loss):
        return objective.inner_gradient_at(forward, weights, batch["image"], labels, inner_loss)

    sampled = tf.function(lambda label_sets: tf.map_fn(
        lambda labels: gradient(labels, losses.CROSS_ENTROPY), label_sets,
        fn_output_signature=[tf.float32] * len(weights)))(sampled_label_sets(batch, 4, 300))
    expected = gradient(
        synthetic.expected_labels(batch["label"], batch["neighbor_labels"], 4, num_classes=3),
        losses.SOFT_CROSS_ENTROPY)
    for gradients, value in zip(sampled, expected):
        standard_error = np.std(gradients, axis=0) / np.sqrt(len(gradients))
        difference = np.abs(np.mean(gradients, axis=0) - value)
        assert (difference < 4.5 * standard_error + 1e-6).all()


def test_no_transfer_equals_one_inner_step_on_the_given_labels():
    expected = fit(new_model(num_synthetic=1, transfer_ratio=0.0), steps=3)
    model = fit(new_model(synthetic="expected", transfer_ratio=0.0), steps=3)
    tiny.assert_equal_weights(model.student, expected.student, atol=1e-6)


def test_number_of_label_sets_does_not_matter_unless_it_is_zero():
    model = fit(new_model(synthetic="expected", num_synthetic=7))
    tiny.assert_equal_weights(model.student, fit(new_model(synthetic="expected")).student)
    plain = fit(new_model(num_synthetic=0))
    without = fit(new_model(synthetic="expected", num_synthetic=0))
    tiny.assert_equal_weights(without.student, plain.student)


@pytest.mark.parametrize("mode", [dict(jit_compile=True), dict(run_eagerly=True)])
@pytest.mark.parametrize("order", ["first", "full"])
def test_xla_and_eager_mode_take_the_step_of_the_graph(order, mode):
    model = new_model(synthetic="expected", meta_order=order)
    model.compile(**RATES, **mode)
    expected = fit(new_model(synthetic="expected", meta_order=order))
    tiny.assert_equal_weights(fit(model).student, expected.student, atol=1e-6)


def test_meta_every_trains_cross_entropy_in_between():
    one = fit(new_model(synthetic="expected"))
    sparse = new_model(synthetic="expected", meta_every=2)
    tiny.assert_equal_weights(fit(sparse).student, one.student)
    before = tiny.weights(sparse.student)
    sparse.train_step(tiny.batch(seed=1))  # The second step, without a meta update.
    plain = new_model(num_synthetic=0)
    for variable, value in zip(plain.student.trainable_variables, before):
        variable.assign(value)
    for velocity, value in zip(plain.optimizer.velocities, one.optimizer.velocities):
        velocity.assign(value)
    plain.train_step(tiny.batch(seed=1))
    tiny.assert_equal_weights(sparse.student, plain.student, atol=1e-6)


def test_inner_step_of_the_head_takes_expected_labels():
    everything = fit(new_model(synthetic="expected"))
    head = fit(new_model(synthetic="expected", fast_weights="head"))
    assert np.isfinite(tiny.weights(head.student)[0]).all()
    assert abs(tiny.weights(head.student)[0] - tiny.weights(everything.student)[0]).max() > 1e-7


def test_unknown_kind_of_labels_is_refused():
    with pytest.raises(ValueError, match="Received: synthetic='mean'"):
        mlnt_tf.MLNT(tiny.dense(), synthetic="mean")
