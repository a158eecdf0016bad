"""The meta gradient on several replicas: the same as on one, of the global batch (paper eq. 2 to 8).

Replicas cannot meet within a `tf.while_loop` (MirroredStrategy merges them in Python), and a graph repeated M times for
each replica takes minutes to build. So the M inner gradients are computed in one loop, averaged over the replicas in
one all-reduce, and used in a second loop: M times the weights' memory, and fewer, larger messages.
"""

import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.meta import objective


def meta_gradient(forward, theta, images, targets, synthetic_labels, *, num_synthetic, inner_rate, order, reduce,
                  parallelism=1, of_images=False):
    """This replica's share of the meta gradient, whose mean over the replicas is that of the global batch.

    With R replicas, J_r and L_r those of their samples, the gradient of (1/R) sum_r J_r(theta'), where
    theta' = theta - alpha (1/R) sum_s grad L_s(theta), is the mean over r of v_r - alpha H_r (1/R) sum_s v_s: v_r the
    gradient of J_r at theta', H_r the Hessian of L_r at theta. First order leaves the second term out.

    Args, returns: as `objective.meta_gradient`; `reduce` is called once, for full order twice.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as shared:
        shared.watch(theta)
        logits = tf.cast(forward(theta, images), tf.float32)
    probabilities = tf.nn.softmax(logits)
    count = len(theta)

    def inner_gradient(m):
        cotangent = losses.cross_entropy_cotangent(synthetic_labels(m), probabilities)
        return shared.gradient(logits, theta, output_gradients=cotangent, unconnected_gradients="zero")

    def at_fast_weights(m):
        fast = objective.fast_weights(theta, [gradient[m] for gradient in inner], inner_rate)
        x = tf.identity(images)  # a tape does not see what the loop has captured before
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            wanted = [*fast, *[x] * of_images]
            tape.watch(wanted)
            consistency = losses.kl_consistency(targets, forward(fast, x))
        return tape.gradient(consistency, wanted, unconnected_gradients="zero"), consistency

    def bend(m):
        weights, x = [tf.identity(weight) for weight in theta], tf.identity(images)  # as above
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            wanted = [*weights, *[x] * of_images]
            outer.watch(wanted)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                loss = losses.cross_entropy(synthetic_labels(m), forward(weights, x))
            gradient = tape.gradient(loss, weights, unconnected_gradients="zero")
        return outer.gradient(gradient, wanted, output_gradients=[direction[m] for direction in directions],
                              unconnected_gradients="zero")

    like_theta = [tf.TensorSpec(weight.shape, weight.dtype) for weight in theta]
    like_wanted = like_theta + [tf.TensorSpec(images.shape, images.dtype)] * of_images

    def for_each_m(function, signature):
        return tf.map_fn(function, tf.range(num_synthetic), fn_output_signature=signature,
                         parallel_iterations=parallelism)

    def add(total, m):
        gradient, consistency = at_fast_weights(m)
        return [sum_ + tf.cast(part, tf.float32) for sum_, part in zip(total[0], gradient)], total[1] + consistency

    inner = reduce(for_each_m(inner_gradient, like_theta))  # [M, ...] each
    if order == "first":
        zeros = [tf.zeros(like.shape) for like in like_wanted], tf.constant(0.0)
        gradients, consistency = tf.foldl(add, tf.range(num_synthetic), initializer=zeros, parallel_iterations=1)
        return [gradient / num_synthetic for gradient in gradients], consistency / num_synthetic
    gradients, consistency = for_each_m(at_fast_weights, (like_wanted, tf.TensorSpec([])))
    directions = reduce(gradients[:count])
    return [tf.reduce_mean(tf.cast(straight, tf.float32) - inner_rate * tf.cast(bent, tf.float32), axis=0)
            for straight, bent in zip(gradients, for_each_m(bend, like_wanted))], tf.reduce_mean(consistency)
