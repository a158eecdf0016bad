"""The meta loss and its gradient: pure functions of the weights (paper eq. 2, 4, 6, 8 and 11).

`forward(weights, images)` is the network at any list of weights, with batch statistics and nothing written:
float logits [batch, classes]. `reduce(gradients)` averages a list of gradients over replicas.
"""

import tensorflow as tf

from mlnt_tf import losses


def fast_weights(theta, inner_gradient, inner_rate):
    """theta' = theta - alpha * inner gradient: plain gradient descent (paper eq. 2)."""
    return [weight - inner_rate * gradient for weight, gradient in zip(theta, inner_gradient)]


def meta_gradient(forward, theta, images, targets, synthetic_labels, *, num_synthetic, inner_rate, order, reduce,
                  unroll=False):
    """(1/M) sum_m grad J(theta'_m), and the mean of the J themselves.

    First order takes the inner gradient as a constant: the gradient of J at theta'_m. The inner losses differ in
    their labels alone, so one forward pass at theta serves all of them: 3 forward costs (a backward counts two)
    for each m over and above the 2 of its inner gradient. Full order differentiates through the inner step.
    The sum runs in a loop, so memory and compile time do not grow with M.

    Args:
      forward, reduce: see the module.
      theta: list of weight tensors.
      images: [batch, height, width, channels].
      targets: float32 [batch, classes], a constant.
      synthetic_labels: function m -> int32 [batch].
      num_synthetic: M, at least 1.
      inner_rate: alpha.
      order: "first" or "full".
      unroll: repeat the graph M times: replicas that meet in `forward` or `reduce` cannot do so in a loop.

    Returns:
      (list of gradients like theta, float32 scalar consistency loss).
    """
    one = _first_order(forward, theta, images, targets, inner_rate, reduce) if order == "first" else \
        _full_order(forward, theta, images, targets, inner_rate, reduce)

    def at(m):
        return one(synthetic_labels(m))

    return (unrolled_mean if unroll else mean_over_m)(at, theta, num_synthetic)


def mean_over_m(one, theta, num_synthetic):
    """The mean over m of `one`: m -> (gradients like theta, scalar); in a loop, so in the memory of one."""
    def add(m, total_gradient, total_loss):
        gradient, loss = one(m)
        return m + 1, [total + part for total, part in zip(total_gradient, gradient)], total_loss + loss

    start = (tf.constant(0), [tf.zeros_like(weight) for weight in theta], tf.constant(0.0))
    _, gradient, loss = tf.while_loop(lambda m, *_: m < num_synthetic, add, start,
                                      parallel_iterations=1, maximum_iterations=num_synthetic)
    return [total / num_synthetic for total in gradient], loss / num_synthetic


def unrolled_mean(one, theta, num_synthetic):
    """The same with the graph repeated M times."""
    total, loss = [tf.zeros_like(weight) for weight in theta], tf.constant(0.0)
    for m in range(num_synthetic):
        with tf.control_dependencies(total):  # one after another, to hold the memory of one
            gradient, part = one(m)
        total, loss = [sum_ + more for sum_, more in zip(total, gradient)], loss + part
    return [sum_ / num_synthetic for sum_ in total], loss / num_synthetic


def _first_order(forward, theta, images, targets, inner_rate, reduce):
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as shared:
        shared.watch(theta)
        logits = forward(theta, images)
    probabilities = tf.nn.softmax(logits)

    def one(labels):
        cotangent = losses.cross_entropy_cotangent(labels, probabilities)
        inner = shared.gradient(logits, theta, output_gradients=cotangent, unconnected_gradients="zero")
        fast = fast_weights(theta, reduce(inner), inner_rate)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(fast)
            consistency = losses.kl_consistency(targets, forward(fast, images))
        return tape.gradient(consistency, fast, unconnected_gradients="zero"), consistency

    return one


def _full_order(forward, theta, images, targets, inner_rate, reduce):
    def one(labels):
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(theta)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(theta)
                inner_loss = losses.cross_entropy(labels, forward(theta, images))
            inner = tape.gradient(inner_loss, theta, unconnected_gradients="zero")
            fast = fast_weights(theta, reduce(inner), inner_rate)
            consistency = losses.kl_consistency(targets, forward(fast, images))
        return outer.gradient(consistency, theta, unconnected_gradients="zero"), consistency

    return one
