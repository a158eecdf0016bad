"""The meta gradient (paper eq. 2 to 8) against values by hand and finite differences.

The scalar example has a single weight theta and logits (0, theta). Its teacher has theta = 1.
"""

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.meta import objective
from mlnt_tf.meta.pure_network import pure_network

import tiny

SIGMOID_1 = 1 / (1 + np.exp(-1.0))
TEACHER = tf.constant([[1 - SIGMOID_1, SIGMOID_1]], tf.float32)


def identity(gradients):
    """The `reduce` of a single replica."""
    return gradients


def mean_cross_entropy(labels, logits):
    return losses.mean_loss(losses.cross_entropy(labels, logits))


def mean_consistency(targets, logits):
    return losses.mean_loss(losses.kl_consistency(targets, logits))


def scalar_forward(weights, images):
    return tf.stack([tf.zeros([1]), tf.reshape(weights[0], [1])], axis=1)


def scalar_meta_gradient(order, labels):
    """(meta gradient, consistency) at theta = 0.5 and alpha = 0.2, with one label per m."""
    labels = tf.constant(labels)
    (gradient,), consistency = objective.meta_gradient(
        scalar_forward, [tf.constant(.5)], tf.zeros([1, 1]), TEACHER, lambda m: labels[m][None],
        num_synthetic=len(labels), inner_rate=.2, order=order, reduce=identity)
    return float(gradient), float(consistency)


@pytest.mark.parametrize("order, label, expected, consistency", [
    ("first", 1, -.091025, .018810), ("full", 1, -.086747, .018810),
    ("first", 0, -.138269, .041703), ("full", 0, -.131771, .041703)])
def test_meta_gradient_by_hand(order, label, expected, consistency):
    actual = scalar_meta_gradient(order, [label])
    assert actual == pytest.approx((expected, consistency), abs=1e-6)


@pytest.mark.parametrize("order, expected", [("first", -.114647), ("full", -.109259)])
def test_meta_gradient_is_the_mean_over_m(order, expected):
    actual, _ = scalar_meta_gradient(order, [1, 0])
    assert actual == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("label, expected", [(1, .575508), (0, .375508)])
def test_inner_step_by_hand(label, expected):
    inner_gradient = 1 / (1 + np.exp(-.5)) - label
    (fast,) = objective.fast_weights([.5], [inner_gradient], .2)
    assert fast == pytest.approx(expected, abs=1e-6)


def test_second_order_of_a_scalar_linear_model():
    """Half squared errors with w = 1, x = 2, inner label 3, outer target 5 and alpha = 0.1.

    The gradient is -3.12 in full order and -5.2 in first order.
    """
    w = tf.constant(1.0)
    with tf.GradientTape() as outer:
        outer.watch(w)
        with tf.GradientTape() as tape:
            tape.watch(w)
            inner = .5 * (2 * w - 3) ** 2
        fast = objective.fast_weights([w], [tape.gradient(inner, w)], .1)[0]
        loss = .5 * (2 * fast - 5) ** 2
    assert float(outer.gradient(loss, w)) == pytest.approx(-3.12, abs=1e-5)
    assert float((2 * fast - 5) * 2) == pytest.approx(-5.2, abs=1e-5)


def random_targets(seed):
    logits = np.random.default_rng(seed).normal(size=[8, 3])
    return tf.nn.softmax(tf.constant(logits, tf.float32))


def network_meta_gradient(network, order, batch, num_synthetic=2):
    """Returns (theta, meta gradients, the meta loss as a function of theta)."""
    targets = random_targets(seed=7)
    pure = pure_network(network, jit_compile=False)
    theta = pure.weights()

    def labels(m):
        return tf.roll(batch["neighbor_labels"], m, axis=1)[:, 0]

    gradients, _ = objective.meta_gradient(pure.forward, theta, batch["image"], targets, labels,
                                           num_synthetic=num_synthetic, inner_rate=.5,
                                           order=order, reduce=identity)

    def meta_loss(theta):
        total = 0.0
        for m in range(num_synthetic):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                loss = mean_cross_entropy(labels(m), pure.forward(theta, batch["image"]))
            fast = objective.fast_weights(theta, tape.gradient(loss, theta), .5)
            total += mean_consistency(targets, pure.forward(fast, batch["image"]))
        return float(total / num_synthetic)

    return theta, gradients, meta_loss


def test_full_order_gradient_equals_finite_differences():
    theta, gradients, meta_loss = network_meta_gradient(tiny.dense(), "full", tiny.batch())
    rng = np.random.default_rng(0)
    direction = [tf.constant(rng.normal(size=weight.shape), tf.float32) for weight in theta]
    step = 3e-3
    up = meta_loss([weight + step * d for weight, d in zip(theta, direction)])
    down = meta_loss([weight - step * d for weight, d in zip(theta, direction)])
    slope = sum(float(tf.reduce_sum(g * d)) for g, d in zip(gradients, direction))
    assert slope == pytest.approx((up - down) / (2 * step), rel=5e-3, abs=2e-4)


def test_meta_gradient_keeps_the_second_order_term():
    _, first, _ = network_meta_gradient(tiny.dense(), "first", tiny.batch())
    _, full, _ = network_meta_gradient(tiny.dense(), "full", tiny.batch())
    differences = [float(tf.reduce_max(abs(a - b))) for a, b in zip(first, full)]
    assert max(differences) > 1e-3


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_give_the_gradient_of_eager_mode(order, jit_compile):
    network = tiny.dense()
    batch = tiny.batch()

    def gradients():
        return network_meta_gradient(network, order, batch, num_synthetic=4)[1]

    compiled = tf.function(gradients, jit_compile=jit_compile)()
    for actual, expected_value in zip(compiled, gradients()):
        np.testing.assert_allclose(actual, expected_value, atol=1e-6)


def test_shared_forward_pass_gives_the_gradients_of_separate_ones():
    """First order, computed with one forward pass at theta per label set."""
    network = tiny.dense()
    batch = tiny.batch()
    theta, gradients, _ = network_meta_gradient(network, "first", batch, num_synthetic=3)
    forward = pure_network(network, jit_compile=False).forward
    targets = random_targets(seed=7)
    total = [tf.zeros_like(weight) for weight in theta]
    for m in range(3):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            logits = forward(theta, batch["image"])
            loss = mean_cross_entropy(tf.roll(batch["neighbor_labels"], m, axis=1)[:, 0], logits)
        fast = objective.fast_weights(theta, tape.gradient(loss, theta), .5)
        with tf.GradientTape() as tape:
            tape.watch(fast)
            loss = mean_consistency(targets, forward(fast, batch["image"]))
        total = objective.add(total, tape.gradient(loss, fast))
    for gradient, expected_sum in zip(gradients, total):
        np.testing.assert_allclose(gradient, expected_sum / 3, atol=1e-6)


def body(theta, images):
    return tf.math.softplus(tf.matmul(images, theta[0]))


def head(theta, features):
    return tf.matmul(features, theta[0])


def two_layers(theta, images):
    """softplus(images w) v, with theta = [w, v]."""
    return head(theta[1:], body(theta[:1], images))


def two_layer_meta_gradient(order, *, head_only, parallelism=1):
    """The meta gradient of `two_layers` with M = 3.

    Returns:
      ([w, v], gradients, the meta loss as a function of w and v, consistency).
    """
    rng = np.random.default_rng(3)
    images = tiny.batch()["image"]
    targets = tf.nn.softmax(tf.constant(rng.normal(size=[8, 3]), tf.float32))
    w = tf.constant(rng.normal(size=[4, 5]), tf.float32)
    v = tf.constant(rng.normal(size=[5, 3]), tf.float32)
    labels = tiny.batch()["neighbor_labels"]
    data = (images, targets, lambda m: labels[:, m])
    settings = dict(num_synthetic=3, inner_rate=.5, order=order, reduce=identity,
                    parallelism=parallelism)

    def meta_loss(w, v):
        total = 0.0
        for m in range(3):
            with tf.GradientTape() as tape:
                tape.watch([w, v])
                loss = mean_cross_entropy(labels[:, m], two_layers([w, v], images))
            w_gradient, v_gradient = tape.gradient(loss, [w, v])
            if head_only:
                w_gradient *= 0
            fast = objective.fast_weights([w, v], [w_gradient, v_gradient], .5)
            total += mean_consistency(targets, two_layers(fast, images))
        return total / 3

    if head_only:
        gradients, loss = objective.meta_gradient_through_head(body, head, [w], [v], *data,
                                                               **settings)
    else:
        gradients, loss = objective.meta_gradient(two_layers, [w, v], *data, **settings)
    return [w, v], gradients, meta_loss, loss


def test_full_order_through_the_head_is_the_gradient_of_the_meta_loss():
    """The meta loss is J(w, v - alpha grad_v Lc); a tape differentiates all of it."""
    theta, gradients, meta_loss, loss = two_layer_meta_gradient("full", head_only=True)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        expected = meta_loss(*theta)
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    for actual, expected_value in zip(gradients, tape.gradient(expected, theta)):
        np.testing.assert_allclose(actual, expected_value, atol=1e-6)


def test_first_order_through_the_head_is_the_gradient_of_j_at_the_fast_head():
    (w, v), gradients, _, _ = two_layer_meta_gradient("first", head_only=True)
    targets = random_targets(seed=3)
    labels = tiny.batch()["neighbor_labels"]
    images = tiny.batch()["image"]
    expected = [0, 0]
    for m in range(3):
        features = body([w], images)
        logit_gradient = (tf.nn.softmax(features @ v) - tf.one_hot(labels[:, m], 3)) / 8
        inner_gradient = tf.transpose(features) @ logit_gradient
        with tf.GradientTape() as tape:
            fast = [w, v - .5 * inner_gradient]
            tape.watch(fast)
            loss = mean_consistency(targets, two_layers(fast, images))
        expected = [total + gradient / 3
                    for total, gradient in zip(expected, tape.gradient(loss, fast))]
    for actual, expected_value in zip(gradients, expected):
        np.testing.assert_allclose(actual, expected_value, atol=1e-6)


def test_head_that_is_the_complete_network_gives_the_gradient_of_all():
    labels = tiny.batch()["neighbor_labels"]
    v = tf.random.stateless_normal([4, 3], [0, 1])
    data = (tiny.batch()["image"], tf.fill([8, 3], 1 / 3), lambda m: labels[:, m])
    settings = dict(num_synthetic=3, inner_rate=.5, order="first", reduce=identity)

    def empty_body(theta, images):
        return images

    (expected,), _ = objective.meta_gradient(head, [v], *data, **settings)
    (gradient,), _ = objective.meta_gradient_through_head(empty_body, head, [], [v], *data,
                                                          **settings)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("parallelism, in_graph", [(2, True), (3, True), (2, False)])
def test_parallelism_does_not_change_the_gradient(order, head_only, parallelism, in_graph):
    def gradients(parallelism):
        return two_layer_meta_gradient(order, head_only=head_only, parallelism=parallelism)[1]

    run = tf.function(gradients) if in_graph else gradients
    for actual, expected_value in zip(run(parallelism), gradients(1)):
        np.testing.assert_allclose(actual, expected_value, atol=1e-6)
