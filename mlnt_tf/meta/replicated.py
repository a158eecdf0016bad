"""The meta gradient of the global batch, computed on several replicas (paper eq. 2 to 8).

Replicas cannot synchronize inside a `tf.while_loop`, because MirroredStrategy merges them in
Python. Repeating the graph M times per replica would take minutes to build. This module therefore
uses two loops with one all-reduce in between: the first computes the M inner gradients, the second
uses their means over the replicas. It needs M times the weights' memory, and sends fewer, larger
messages.
"""

import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.meta import objective


def meta_gradient(forward, theta, images, targets, synthetic_labels, *, num_synthetic, inner_rate,
                  order, reduce, parallelism=1, image_gradient=False,
                  inner_loss=losses.CROSS_ENTROPY):
    """This replica's part of the meta gradient; the mean over replicas is that of the global batch.

    Let J_r and L_r be the losses of replica r's examples, with R replicas. The global fast weights
    are theta' = theta - alpha (1/R) sum_s grad L_s(theta). The gradient of (1/R) sum_r J_r(theta')
    is then the mean over r of v_r - alpha H_r (1/R) sum_s v_s. Here v_r is the gradient of J_r at
    theta' and H_r the Hessian of L_r at theta. First order omits the second term.

    Args and returns: as for `objective.meta_gradient`. `reduce` is called once, or twice in full
    order.
    """
    like_weights = [tf.TensorSpec(weight.shape, weight.dtype) for weight in theta]
    like_images = tf.TensorSpec(images.shape, images.dtype)
    like_gradient = objective.with_images(like_weights, like_images, image_gradient)
    label_sets = tf.range(num_synthetic)

    def for_each_label_set(function, signature):
        return tf.map_fn(function, label_sets, fn_output_signature=signature,
                         parallel_iterations=parallelism)

    shared_gradient = objective.shared_inner_gradient(forward, theta, images, inner_loss)
    inner_gradients = reduce(for_each_label_set(  # Each is [M, ...].
        lambda m: shared_gradient(synthetic_labels(m)), like_weights))

    def gradient_at_fast_weights(m):
        inner_gradient = [gradients[m] for gradients in inner_gradients]
        fast = objective.fast_weights(theta, inner_gradient, inner_rate)
        return objective.consistency_gradient(forward, fast, images, targets,
                                              image_gradient=image_gradient)

    if order == "first":
        def add_label_set(total, m):
            gradient_sum, loss_sum = total
            gradient, consistency = gradient_at_fast_weights(m)
            return objective.add(gradient_sum, gradient), loss_sum + consistency

        zeros = [tf.zeros(like.shape) for like in like_gradient]
        gradient_sum, loss_sum = tf.foldl(add_label_set, label_sets, parallel_iterations=1,
                                          initializer=(zeros, tf.constant(0.0)))
        return [total / num_synthetic for total in gradient_sum], loss_sum / num_synthetic

    gradients, consistency = for_each_label_set(gradient_at_fast_weights,
                                                (like_gradient, tf.TensorSpec([])))
    directions = reduce(gradients[:len(theta)])  # (1/R) sum_s v_s for each m.

    def hessian_product(m):
        """Returns H_r times the m-th direction, as the gradient of <grad L_r, direction>."""
        weights, pixels = objective.copies_for_tape(theta), tf.identity(images)
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            sources = objective.with_images(weights, pixels, image_gradient)
            outer.watch(sources)
            inner_gradient = objective.inner_gradient_at(forward, weights, pixels,
                                                         synthetic_labels(m), inner_loss)
        return outer.gradient(inner_gradient, sources, unconnected_gradients="zero",
                              output_gradients=[direction[m] for direction in directions])

    products = for_each_label_set(hessian_product, like_gradient)
    full_order = [tf.reduce_mean(tf.cast(gradient, tf.float32)
                                 - inner_rate * tf.cast(product, tf.float32), axis=0)
                  for gradient, product in zip(gradients, products)]
    return full_order, tf.reduce_mean(consistency)
