"""Batch normalization on the fused kernel: faster than Keras's own, and right in the second order."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="mlnt_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same numbers, computed by FusedBatchNormV3.

    Keras takes `tf.nn.moments`, which stops the gradient of the mean, so that second derivatives through it are
    wrong; the fused kernel has its own, right ones. Moving statistics are averaged over replicas. `synchronized=True`
    takes the batch statistics over all replicas, right in the second order too. Inputs of rank 2 or 4 with the
    channels last are fused; others, masks, renorm and float64 go to Keras's code.
    """

    def add_weight(self, *args, trainable=True, **kwargs):
        if not trainable:  # replicas would drift apart
            kwargs.setdefault("aggregation", "mean")
        return super().add_weight(*args, trainable=trainable, **kwargs)

    @property
    def fused(self):
        """Whether the built layer's inputs are such that it takes the fused kernel; masks aside."""
        return self.built and self.input_spec.ndim in (2, 4) and self.axis in (-1, self.input_spec.ndim - 1) \
            and self.compute_dtype != "float64" and not self.renorm

    def call(self, inputs, training=None, mask=None):
        rank = len(inputs.shape)
        if not self.fused or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        training = bool(training) and self.trainable
        if training and self.synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return self.normalize_over_replicas(tf.cast(inputs, tf.float32))
        images = tf.cast(inputs, self.compute_dtype)
        images = images[:, None, None, :] if rank == 2 else images
        channels = images.shape[-1]
        scale = tf.cast(self.gamma, tf.float32) if self.scale else tf.ones([channels])
        offset = tf.cast(self.beta, tf.float32) if self.center else tf.zeros([channels])
        moving_mean, moving_variance = tf.cast(self.moving_mean, tf.float32), tf.cast(self.moving_variance, tf.float32)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images, scale=scale, offset=offset, epsilon=self.epsilon, is_training=training,
            mean=tf.zeros([0]) if training else moving_mean, variance=tf.zeros([0]) if training else moving_variance)
        if training:
            count = tf.cast(tf.size(images) // channels, tf.float32)
            variance *= tf.maximum(count - 1.0, 1.0) / count  # the kernel applies Bessel's correction, Keras does not
            self.move_statistics(mean, variance)
        return outputs[:, 0, 0, :] if rank == 2 else outputs

    def move_statistics(self, mean, variance):
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + tf.cast(batch, moving.dtype) * (1.0 - self.momentum))

    def normalize_over_replicas(self, inputs):
        """By the mean and variance of the global batch, float32 [..., channels] of each replica, in one gathering."""
        axes = list(range(len(inputs.shape) - 1))
        mean = tf.reduce_mean(inputs, axis=axes)
        variance = tf.reduce_mean(tf.square(inputs - mean), axis=axes)
        gathered = tf.distribute.get_replica_context().all_gather(tf.stack([mean, variance])[None], axis=0)
        means, variances = tf.unstack(tf.ensure_shape(gathered, [None, 2, inputs.shape[-1]]), axis=1)
        mean = tf.reduce_mean(means, axis=0)
        variance = tf.reduce_mean(variances + tf.square(means - mean), axis=0)
        self.move_statistics(mean, variance)
        scale = tf.math.rsqrt(variance + self.epsilon) * (tf.cast(self.gamma, tf.float32) if self.scale else 1.0)
        outputs = (inputs - mean) * scale + (tf.cast(self.beta, tf.float32) if self.center else 0.0)
        return tf.cast(outputs, self.compute_dtype)


def fuse_batch_norm(network, *, synchronized=False):
    """A copy of a network, same weights, with `FusedBatchNormalization` in place of Keras's batch normalization.

    Networks of `keras.applications` and nested networks are converted too; a layer the fused kernel cannot serve (see
    the class) keeps Keras's code.

    Args:
      network: a functional or sequential model, built.
      synchronized: whether batch statistics are taken over all replicas.

    Returns:
      a model of the same kind, names and numbers, with weights of its own; the network is left as it is.

    Raises:
      ValueError: a subclassed network, whose layers cannot be exchanged from outside, or one that is not built.
    """
    def clone(layer):
        kind = FusedBatchNormalization if type(layer) is keras.layers.BatchNormalization else type(layer)
        settings = layer.get_config()
        if synchronized and issubclass(kind, keras.layers.BatchNormalization):
            settings["synchronized"] = True
        return kind.from_config(settings)

    try:
        if not network.built:
            raise ValueError("the network has no weights yet")
        fused = keras.models.clone_model(network, clone_function=clone, recursive=True)
    except ValueError as error:
        raise ValueError("only a built functional or sequential network can be converted; in another, write "
                         f"mlnt_tf.FusedBatchNormalization. Received: {type(network).__name__} {network.name!r} "
                         f"({error})") from error
    if not fused.built:
        fused.build(network.input_shape)
    fused.set_weights(network.get_weights())
    return fused
