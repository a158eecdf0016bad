"""The meta gradient against numbers worked out by hand, and against finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.meta import objective

import tiny

TEACHER = tf.constant([[1 - 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-1.0))]], tf.float32)


def mean_cross_entropy(labels, logits):
    return losses.mean_loss(losses.cross_entropy(labels, logits))


def mean_consistency(targets, logits):
    return losses.mean_loss(losses.kl_consistency(targets, logits))


def forward(weights, images):
    return tf.stack([tf.zeros([1]), tf.reshape(weights[0], [1])], axis=1)


def gradient(order, labels):
    labels = tf.constant(labels)
    (result,), consistency = objective.meta_gradient(
        forward, [tf.constant(.5)], tf.zeros([1, 1]), TEACHER, lambda m: labels[m][None], num_synthetic=len(labels),
        inner_rate=.2, order=order, reduce=lambda gradients: gradients)
    return float(result), float(consistency)


@pytest.mark.parametrize("order, label, expected, consistency", [
    ("first", 1, -.091025, .018810), ("full", 1, -.086747, .018810),
    ("first", 0, -.138269, .041703), ("full", 0, -.131771, .041703)])
def test_meta_gradient_by_hand(order, label, expected, consistency):
    assert gradient(order, [label]) == pytest.approx((expected, consistency), abs=1e-6)


@pytest.mark.parametrize("order, expected", [("first", -.114647), ("full", -.109259)])
def test_meta_gradient_is_the_mean_over_m(order, expected):
    assert gradient(order, [1, 0])[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("label, expected", [(1, .575508), (0, .375508)])
def test_inner_step(label, expected):
    inner = 1 / (1 + np.exp(-.5)) - label
    assert objective.fast_weights([.5], [inner], .2)[0] == pytest.approx(expected, abs=1e-6)


def test_second_order_of_a_scalar_linear_model():
    """w = 1, x = 2, inner label 3, outer target 5, alpha = .1, half squared errors: -3.12 exact, -5.2 first order."""
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


def of_network(network, order, batch, num_synthetic=2):
    fixed = network.non_trainable_variables
    targets = tf.nn.softmax(tf.constant(np.random.default_rng(7).normal(size=[8, 3]), tf.float32))
    theta = [tf.convert_to_tensor(variable) for variable in network.trainable_variables]

    def network_forward(weights, images):
        return network.stateless_call(weights, fixed, images, training=True)[0]

    def labels(m):
        return tf.roll(batch["neighbor_labels"], m, axis=1)[:, 0]

    gradients, _ = objective.meta_gradient(network_forward, theta, batch["image"], targets, labels,
                                           num_synthetic=num_synthetic, inner_rate=.5, order=order,
                                           reduce=lambda gradients: gradients)

    def meta_loss(theta):
        total = 0.0
        for m in range(num_synthetic):
            with tf.GradientTape() as tape:
                tape.watch(theta)
                loss = mean_cross_entropy(labels(m), network_forward(theta, batch["image"]))
            fast = objective.fast_weights(theta, tape.gradient(loss, theta), .5)
            total += mean_consistency(targets, network_forward(fast, batch["image"])) / num_synthetic
        return float(total)

    return theta, gradients, meta_loss


def test_full_meta_gradient_against_finite_differences():
    theta, gradients, meta_loss = of_network(tiny.dense(), "full", tiny.batch())
    draws = np.random.default_rng(0)
    direction = [tf.constant(draws.normal(size=weight.shape), tf.float32) for weight in theta]
    step = 3e-3
    up = meta_loss([weight + step * d for weight, d in zip(theta, direction)])
    down = meta_loss([weight - step * d for weight, d in zip(theta, direction)])
    slope = sum(float(tf.reduce_sum(g * d)) for g, d in zip(gradients, direction))
    assert slope == pytest.approx((up - down) / (2 * step), rel=5e-3, abs=2e-4)


def test_meta_gradient_keeps_the_second_order_term():
    _, first, _ = of_network(tiny.dense(), "first", tiny.batch())
    _, full, _ = of_network(tiny.dense(), "full", tiny.batch())
    assert max(float(tf.reduce_max(abs(a - b))) for a, b in zip(first, full)) > 1e-3


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_eager_graph_and_xla_agree(order, jit_compile):
    network, batch = tiny.dense(), tiny.batch()
    expected = of_network_gradients(network, order, batch)
    compiled = tf.function(lambda: of_network_gradients(network, order, batch), jit_compile=jit_compile)()
    for mine, theirs in zip(compiled, expected):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def of_network_gradients(network, order, batch):
    return of_network(network, order, batch, num_synthetic=4)[1]


def test_the_shared_forward_gives_each_inner_gradient():
    """One forward pass with M cotangents equals M forward passes: alpha = 0 apart, the fast weights show it."""
    network, batch = tiny.dense(), tiny.batch()
    _, together, _ = of_network(network, "first", batch, num_synthetic=3)
    fixed, total = network.non_trainable_variables, None
    targets = tf.nn.softmax(tf.constant(np.random.default_rng(7).normal(size=[8, 3]), tf.float32))
    for m in range(3):
        theta = [tf.convert_to_tensor(variable) for variable in network.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(theta)
            logits = network.stateless_call(theta, fixed, batch["image"], training=True)[0]
            loss = mean_cross_entropy(tf.roll(batch["neighbor_labels"], m, axis=1)[:, 0], logits)
        fast = objective.fast_weights(theta, tape.gradient(loss, theta), .5)
        with tf.GradientTape() as tape:
            tape.watch(fast)
            loss = mean_consistency(targets, network.stateless_call(fast, fixed, batch["image"], training=True)[0])
        part = tape.gradient(loss, fast)
        total = part if total is None else [a + b for a, b in zip(total, part)]
    for mine, theirs in zip(together, total):
        np.testing.assert_allclose(mine, theirs / 3, atol=1e-6)


def two_layers(theta, images):
    return tf.matmul(tf.math.softplus(tf.matmul(images, theta[0])), theta[1])


def of_two_layers(order, *, head_alone, parallelism=1, num_synthetic=3):
    """Meta gradients of softplus(x w) v, and the function they are the gradients of."""
    draws = np.random.default_rng(3)
    images, targets = tiny.batch()["image"], tf.nn.softmax(tf.constant(draws.normal(size=[8, 3]), tf.float32))
    w, v = (tf.constant(draws.normal(size=shape), tf.float32) for shape in ([4, 5], [5, 3]))
    labels = tiny.batch()["neighbor_labels"]
    rest = (images, targets, lambda m: labels[:, m])
    settings = dict(num_synthetic=num_synthetic, inner_rate=.5, order=order, reduce=lambda gradients: gradients,
                    parallelism=parallelism)

    def meta_loss(w, v):
        total = 0.0
        for m in range(num_synthetic):
            with tf.GradientTape() as tape:
                tape.watch([w, v])
                loss = mean_cross_entropy(labels[:, m], two_layers([w, v], images))
            of_w, of_v = tape.gradient(loss, [w, v])
            fast = objective.fast_weights([v] if head_alone else [w, v], [of_v] if head_alone else [of_w, of_v], .5)
            total += mean_consistency(targets, two_layers([w, *fast] if head_alone else fast, images))
        return total / num_synthetic

    if head_alone:
        gradients, loss = objective.meta_gradient_through_head(
            lambda theta, x: tf.math.softplus(tf.matmul(x, theta[0])), lambda theta, x: tf.matmul(x, theta[0]),
            [w], [v], *rest, **settings)
    else:
        gradients, loss = objective.meta_gradient(two_layers, [w, v], *rest, **settings)
    return [w, v], gradients, meta_loss, loss


def test_the_head_alone_is_the_same_loss_with_the_body_left_where_it_is():
    """Full order: the gradient, body's included, of J(w, v - alpha grad_v Lc), which a tape takes of it as a whole."""
    theta, gradients, meta_loss, loss = of_two_layers("full", head_alone=True)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        expected = meta_loss(*theta)
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    for mine, theirs in zip(gradients, tape.gradient(expected, theta)):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_the_head_alone_to_first_order_is_grad_j_at_the_moved_head():
    """As `all` would give with the inner gradient of the body set to zero."""
    (w, v), gradients, _, _ = of_two_layers("first", head_alone=True)
    draws = np.random.default_rng(3)
    targets = tf.nn.softmax(tf.constant(draws.normal(size=[8, 3]), tf.float32))
    labels, images = tiny.batch()["neighbor_labels"], tiny.batch()["image"]
    expected = [0, 0]
    for m in range(3):
        features = tf.math.softplus(images @ w)
        inner = tf.transpose(features) @ (tf.nn.softmax(features @ v) - tf.one_hot(labels[:, m], 3)) / 8
        with tf.GradientTape() as tape:
            fast = [w, v - .5 * inner]
            tape.watch(fast)
            loss = mean_consistency(targets, two_layers(fast, images))
        expected = [total + part / 3 for total, part in zip(expected, tape.gradient(loss, fast))]
    for mine, theirs in zip(gradients, expected):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_a_head_that_is_the_whole_network_gives_what_all_gives():
    images, targets = tiny.batch()["image"], tf.fill([8, 3], 1 / 3)
    labels, v = tiny.batch()["neighbor_labels"], tf.random.stateless_normal([4, 3], [0, 1])
    rest = (images, targets, lambda m: labels[:, m])
    settings = dict(num_synthetic=3, inner_rate=.5, order="first", reduce=lambda gradients: gradients)

    def last(theta, x):
        return x @ theta[0]

    (whole,), _ = objective.meta_gradient(last, [v], *rest, **settings)
    (head,), _ = objective.meta_gradient_through_head(lambda theta, x: x, last, [], [v], *rest, **settings)
    np.testing.assert_array_equal(whole, head)


@pytest.mark.parametrize("order", ["first", "full"])
@pytest.mark.parametrize("head_alone", [False, True])
@pytest.mark.parametrize("parallelism, graph", [(2, True), (3, True), (2, False)])
def test_side_by_side_gives_the_same_numbers(order, head_alone, parallelism, graph):
    def gradients(parallelism):
        return of_two_layers(order, head_alone=head_alone, parallelism=parallelism)[1]

    wrap = tf.function if graph else lambda function: function
    for one, other in zip(gradients(1), wrap(lambda: gradients(parallelism))()):
        np.testing.assert_allclose(one, other, atol=1e-6)
