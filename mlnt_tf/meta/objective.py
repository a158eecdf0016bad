"""The meta loss and its gradient: pure functions of the weights (paper eq. 2, 4, 6, 8 and 11).

`forward(weights, images)` is the network at any list of weights, with batch statistics and nothing written:
logits [batch, classes]. `reduce(gradients)` averages a list of gradients over replicas.
"""

import tensorflow as tf

from mlnt_tf import losses


def fast_weights(theta, inner_gradient, inner_rate):
    """theta' = theta - alpha * inner gradient: plain gradient descent (paper eq. 2)."""
    return [weight - inner_rate * gradient for weight, gradient in zip(theta, inner_gradient)]


def meta_gradient(forward, theta, images, targets, synthetic_labels, *, num_synthetic, inner_rate, order, reduce,
                  parallelism=1, of_images=False):
    """(1/M) sum_m grad J(theta'_m), and the mean of the J themselves.

    First order takes the inner gradient as a constant: the gradient of J at theta'_m. The inner losses differ in
    their labels alone, so one forward pass at theta serves all of them: 3 forward costs (a backward counts two)
    for each m over and above the 2 of its inner gradient. Full order differentiates through the inner step.
    The sum runs in a loop, so memory and compile time do not grow with M, but with `parallelism`.

    Args:
      forward, reduce: see the module.
      theta: list of weight tensors.
      images: [batch, height, width, channels], or features in their place.
      targets: float32 [batch, classes], a constant.
      synthetic_labels: function m -> int32 [batch].
      num_synthetic: M, at least 1.
      inner_rate: alpha.
      order: "first" or "full".
      parallelism: how many m run side by side.
      of_images: the gradient with respect to the images is wanted too.

    Returns:
      (list of gradients like theta, that of the images last if wanted; float32 scalar consistency loss).
    """
    one = _first_order(forward, theta, images, targets, inner_rate, reduce, of_images) if order == "first" else \
        _full_order(forward, theta, images, targets, inner_rate, reduce, of_images)

    def add(m, gradient, loss, count=parallelism):
        for one_gradient, one_loss in [one(synthetic_labels(m + side)) for side in range(count)]:
            gradient = [total + tf.cast(part, tf.float32) for total, part in zip(gradient, one_gradient)]
            loss += one_loss
        return m + count, gradient, loss

    zeros = [tf.zeros_like(weight, tf.float32) for weight in [*theta, *[images] * of_images]]
    start = tf.constant(0), zeros, tf.constant(0.0)
    rounds, rest = divmod(num_synthetic, parallelism)
    state = tf.while_loop(lambda m, *_: m < rounds * parallelism, add, start, parallel_iterations=1,
                          maximum_iterations=rounds)
    _, gradient, loss = add(*state, count=rest)
    return [total / num_synthetic for total in gradient], loss / num_synthetic


def meta_gradient_through_head(body, head, theta_body, theta_head, images, *args, **kwargs):
    """The same with an inner step that moves the head alone: theta'_m = (theta_body, theta_head - alpha grad_head Lc).

    The features are then those of theta for every m, so one forward and one backward pass of the body serve all.

    Args:
      body, head: the network in two, each as `forward`: images to features, features to logits.
      theta_body, theta_head: their weights.
      the others: as `meta_gradient`.

    Returns:
      (list of gradients like theta_body + theta_head, float32 scalar consistency loss).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(theta_body)
        features = body(theta_body, images)
    (*of_head, of_features), loss = meta_gradient(head, theta_head, features, *args, **kwargs, of_images=True)
    of_body = tape.gradient(features, theta_body, tf.cast(of_features, features.dtype), unconnected_gradients="zero")
    return of_body + of_head, loss


def _first_order(forward, theta, images, targets, inner_rate, reduce, of_images):
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as shared:
        shared.watch(theta)
        logits = tf.cast(forward(theta, images), tf.float32)
    probabilities = tf.nn.softmax(logits)

    def one(labels):
        cotangent = losses.cross_entropy_cotangent(labels, probabilities)
        inner = shared.gradient(logits, theta, output_gradients=cotangent, unconnected_gradients="zero")
        fast = fast_weights(theta, reduce(inner), inner_rate)
        x = tf.identity(images)  # a tape does not see what the loop has captured before
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            wanted = [*fast, *[x] * of_images]
            tape.watch(wanted)
            consistency = losses.kl_consistency(targets, forward(fast, x))
        return tape.gradient(consistency, wanted, unconnected_gradients="zero"), consistency

    return one


def _full_order(forward, theta, images, targets, inner_rate, reduce, of_images):
    def one(labels):
        weights, x = [tf.identity(weight) for weight in theta], tf.identity(images)  # as above
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            wanted = [*weights, *[x] * of_images]
            outer.watch(wanted)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                inner_loss = losses.cross_entropy(labels, forward(weights, x))
            inner = tape.gradient(inner_loss, weights, unconnected_gradients="zero")
            fast = fast_weights(weights, reduce(inner), inner_rate)
            consistency = losses.kl_consistency(targets, forward(fast, x))
        return outer.gradient(consistency, wanted, unconnected_gradients="zero"), consistency

    return one
