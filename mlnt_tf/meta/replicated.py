"""The meta gradient on several replicas: the same as on one, of the global batch (paper eq. 2 to 8).

Replicas cannot meet within a `tf.while_loop` (MirroredStrategy merges them in Python), and a graph repeated M times for
each replica takes minutes to build. So the M inner gradients are computed in one loop, averaged over the replicas in
one all-reduce, and used in a second loop: M times the weights' memory, and fewer, larger messages.
"""

import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.meta import objective


def meta_gradient(forward, theta, images, targets, synthetic_labels, *, num_synthetic, inner_rate, order, reduce):
    """This replica's share of the meta gradient, whose mean over the replicas is that of the global batch.

    With R replicas, J_r and L_r those of their samples, the gradient of (1/R) sum_r J_r(theta'), where
    theta' = theta - alpha (1/R) sum_s grad L_s(theta), is the mean over r of v_r - alpha H_r (1/R) sum_s v_s: v_r the
    gradient of J_r at theta', H_r the Hessian of L_r at theta. First order leaves the second term out.

    Args, returns: as `objective.meta_gradient`; `reduce` is called once, for full order twice.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as shared:
        shared.watch(theta)
        logits = forward(theta, images)
    probabilities = tf.nn.softmax(logits)

    def inner_gradient(m):
        cotangent = losses.cross_entropy_cotangent(synthetic_labels(m), probabilities)
        return shared.gradient(logits, theta, output_gradients=cotangent, unconnected_gradients="zero")

    def at_fast_weights(m):
        fast = objective.fast_weights(theta, [gradient[m] for gradient in inner], inner_rate)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(fast)
            consistency = losses.kl_consistency(targets, forward(fast, images))
        return tape.gradient(consistency, fast, unconnected_gradients="zero"), consistency

    def curvature(m):
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(theta)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(theta)
                loss = losses.cross_entropy(synthetic_labels(m), forward(theta, images))
            gradient = tape.gradient(loss, theta, unconnected_gradients="zero")
        return outer.gradient(gradient, theta, output_gradients=[direction[m] for direction in directions],
                              unconnected_gradients="zero")

    like_theta = [tf.TensorSpec(weight.shape, weight.dtype) for weight in theta]

    def for_each_m(function, signature):
        return tf.map_fn(function, tf.range(num_synthetic), fn_output_signature=signature, parallel_iterations=1)

    inner = reduce(for_each_m(inner_gradient, like_theta))  # [M, ...] each
    if order == "first":
        return objective.mean_over_m(at_fast_weights, theta, num_synthetic)
    gradients, consistency = for_each_m(at_fast_weights, (like_theta, tf.TensorSpec([])))
    directions = reduce(gradients)
    bends = for_each_m(curvature, like_theta)
    return ([tf.reduce_mean(gradient - inner_rate * bend, axis=0) for gradient, bend in zip(gradients, bends)],
            tf.reduce_mean(consistency))
