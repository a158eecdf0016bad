"""The meta loss and its gradient as pure functions of the weights (paper eq. 2, 4, 6, 8 and 11).

Two functions recur as arguments. `forward(weights, images)` evaluates the network at any list of
weights and returns logits [batch, classes]. It uses batch statistics and updates no variable.
`reduce(gradients)` averages a list of gradients over the replicas.
"""

import tensorflow as tf

from mlnt_tf import losses


def fast_weights(theta, inner_gradient, inner_rate):
    """theta' = theta - alpha * inner gradient: one step of plain gradient descent (paper eq. 2)."""
    return [weight - inner_rate * gradient for weight, gradient in zip(theta, inner_gradient)]


def meta_gradient(forward, theta, images, targets, synthetic_labels, *, num_synthetic, inner_rate,
                  order, reduce, parallelism=1, unrolled=False, image_gradient=False,
                  inner_loss=losses.CROSS_ENTROPY):
    """Computes (1/M) sum_m grad J(theta'_m) and the mean of J(theta'_m).

    First order treats the inner gradient as a constant, so the result is the gradient of J at
    theta'_m. The inner losses differ only in their labels, so one forward pass at theta serves all
    of them. Counting a backward pass as two forward passes, each m then costs 2 passes for its
    inner gradient and 3 for J. Full order differentiates through the inner step.

    The sum over m is a loop. Memory and compile time grow with `parallelism`, not with M.

    Args:
      forward, reduce: see the module's docstring.
      theta: list of weight tensors.
      images: [batch, height, width, channels], or features in their place.
      targets: float32 [batch, classes], treated as a constant.
      synthetic_labels: function m -> labels as `inner_loss` takes them: int32 [batch], or float32
        [batch, classes] if they are soft.
      num_synthetic: M, at least 1.
      inner_rate: alpha.
      order: "first" or "full".
      parallelism: number of label sets that are processed side by side, at most M.
      unrolled: whether to repeat the graph M times instead of looping, whatever `parallelism` is.
      image_gradient: whether to return the gradient with respect to the images as well.
      inner_loss: a `losses.InnerLoss`. First order uses only its gradient, full order its value.

    Returns:
      (list of gradients like theta, followed by that of the images if requested; float32 scalar,
      the mean consistency loss).
    """
    new_gradient = first_order_gradient if order == "first" else full_order_gradient
    gradient_of = new_gradient(forward, theta, images, targets, inner_rate=inner_rate,
                               reduce=reduce, image_gradient=image_gradient, inner_loss=inner_loss)

    def add_label_sets(first, count, gradient_sum, loss_sum):
        for offset in range(count):
            gradient, loss = gradient_of(synthetic_labels(first + offset))
            gradient_sum = add(gradient_sum, gradient)
            loss_sum += loss
        return gradient_sum, loss_sum

    def one_round(m, gradient_sum, loss_sum):
        gradient_sum, loss_sum = add_label_sets(m, parallelism, gradient_sum, loss_sum)
        return m + parallelism, gradient_sum, loss_sum

    m = tf.constant(0)
    gradient_sum = [tf.zeros_like(tensor, tf.float32)
                    for tensor in with_images(theta, images, image_gradient)]
    loss_sum = tf.constant(0.0)
    rounds, rest = (0, num_synthetic) if unrolled else divmod(num_synthetic, parallelism)
    if rounds:
        m, gradient_sum, loss_sum = tf.while_loop(
            lambda m, *_: m < rounds * parallelism, one_round, (m, gradient_sum, loss_sum),
            parallel_iterations=1, maximum_iterations=rounds)
    gradient_sum, loss_sum = add_label_sets(m, rest, gradient_sum, loss_sum)
    return [total / num_synthetic for total in gradient_sum], loss_sum / num_synthetic


def meta_gradient_through_head(body, head, theta_body, theta_head, images, targets,
                               synthetic_labels, *, gradient_of=meta_gradient, **settings):
    """The meta gradient if the inner step moves only the head of the network.

    theta'_m = (theta_body, theta_head - alpha grad_head Lc). The features do not depend on m, so
    one forward and one backward pass of the body serve all M label sets.

    Args:
      body, head: the two parts of the network, each like `forward`: images to features, and
        features to logits.
      theta_body, theta_head: their weights.
      images, targets, synthetic_labels, **settings: as for `meta_gradient`.
      gradient_of: `meta_gradient`, or a function with the same arguments.

    Returns:
      (list of gradients like theta_body + theta_head, float32 scalar consistency loss).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(theta_body)
        features = body(theta_body, images)
    gradients, loss = gradient_of(head, theta_head, features, targets, synthetic_labels,
                                  image_gradient=True, **settings)
    head_gradient = gradients[:-1]
    feature_gradient = tf.cast(gradients[-1], features.dtype)
    body_gradient = tape.gradient(features, theta_body, feature_gradient,
                                  unconnected_gradients="zero")
    return body_gradient + head_gradient, loss


def first_order_gradient(forward, theta, images, targets, *, inner_rate, reduce, image_gradient,
                         inner_loss):
    """Returns a function: labels [batch] -> (gradient of J at theta'_m, J).

    The forward pass at theta runs here, once. The returned function only runs its backward pass.
    """
    inner_gradient = shared_inner_gradient(forward, theta, images, inner_loss)

    def gradient_of(labels):
        fast = fast_weights(theta, reduce(inner_gradient(labels)), inner_rate)
        return consistency_gradient(forward, fast, images, targets, image_gradient=image_gradient)

    return gradient_of


def full_order_gradient(forward, theta, images, targets, *, inner_rate, reduce, image_gradient,
                        inner_loss):
    """Returns a function: labels [batch] -> (gradient of J(theta'_m(theta)) at theta, J)."""
    def gradient_of(labels):
        weights, pixels = copies_for_tape(theta), tf.identity(images)
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            sources = with_images(weights, pixels, image_gradient)
            outer.watch(sources)
            inner = inner_gradient_at(forward, weights, pixels, labels, inner_loss)
            fast = fast_weights(weights, reduce(inner), inner_rate)
            consistency = consistency_loss(forward, fast, pixels, targets)
        return outer.gradient(consistency, sources, unconnected_gradients="zero"), consistency

    return gradient_of


def shared_inner_gradient(forward, theta, images, inner_loss):
    """Returns a function: labels [batch] -> list, the gradient of the inner loss at theta.

    The forward pass runs here, once. The returned function starts a backward pass from the
    closed-form gradient with respect to the logits.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(theta)
        logits = tf.cast(forward(theta, images), tf.float32)

    def inner_gradient(labels):
        logit_gradient = losses.mean_loss_gradient(inner_loss.gradient(labels, logits))
        return tape.gradient(logits, theta, output_gradients=logit_gradient,
                             unconnected_gradients="zero")

    return inner_gradient


def inner_gradient_at(forward, weights, images, labels, inner_loss):
    """The gradient of the inner loss at `weights`, which an enclosing tape can differentiate."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        loss = losses.mean_loss(inner_loss.value(labels, forward(weights, images)))
    return tape.gradient(loss, weights, unconnected_gradients="zero")


def consistency_gradient(forward, weights, images, targets, *, image_gradient):
    """Returns (gradient of J at `weights`, then that of the images if requested; J)."""
    pixels = tf.identity(images)  # See `copies_for_tape`.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        sources = with_images(weights, pixels, image_gradient)
        tape.watch(sources)
        consistency = consistency_loss(forward, weights, pixels, targets)
    return tape.gradient(consistency, sources, unconnected_gradients="zero"), consistency


def consistency_loss(forward, weights, images, targets):
    """J: the mean KL divergence from the targets (paper eq. 4 and 11), a float32 scalar."""
    return losses.mean_loss(losses.kl_consistency(targets, forward(weights, images)))


def with_images(weights, images, image_gradient):
    """The tensors to differentiate with respect to: the weights, then the images if requested."""
    if image_gradient:
        return [*weights, images]
    return list(weights)


def copies_for_tape(weights):
    """Copies that a tape inside a loop can watch.

    A loop's body captures tensors from outside. A tape does not see a tensor that was captured
    before the tape was opened.
    """
    return [tf.identity(weight) for weight in weights]


def add(totals, parts):
    """Adds each part, as float32, to its total."""
    return [total + tf.cast(part, tf.float32) for total, part in zip(totals, parts)]
