"""Batch normalization on the fused kernel: faster than Keras's own, and right in the second order."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="mlnt_tf")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same numbers, computed by FusedBatchNormV3.

    Keras takes `tf.nn.moments`, which stops the gradient of the mean, so that second derivatives through it are
    wrong; the fused kernel has its own, right ones. Moving statistics are averaged over replicas. Inputs of rank 2 or
    4 with the channels last are fused; others, masks, renorm,
    synchronized and float64 go to Keras's code.
    """

    def add_weight(self, *args, trainable=True, **kwargs):
        if not trainable:  # replicas would drift apart
            kwargs.setdefault("aggregation", "mean")
        return super().add_weight(*args, trainable=trainable, **kwargs)

    @property
    def fused(self):
        """Whether the built layer's inputs are such that it takes the fused kernel; masks aside."""
        return self.built and self.input_spec.ndim in (2, 4) and self.axis in (-1, self.input_spec.ndim - 1) \
            and self.compute_dtype != "float64" and not self.renorm and not self.synchronized

    def call(self, inputs, training=None, mask=None):
        rank = len(inputs.shape)
        if not self.fused or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        training = bool(training) and self.trainable
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
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + tf.cast(batch, moving.dtype) * (1.0 - self.momentum))
        return outputs[:, 0, 0, :] if rank == 2 else outputs


def fuse_batch_norm(network):
    """A copy of a network, same weights, with `FusedBatchNormalization` in place of Keras's batch normalization.

    Networks of `keras.applications` and nested networks are converted too; a layer the fused kernel cannot serve (see
    the class) keeps Keras's code.

    Args:
      network: a functional or sequential model, built.

    Returns:
      a model of the same kind, names and numbers, with weights of its own; the network is left as it is.

    Raises:
      ValueError: a subclassed network, whose layers cannot be exchanged from outside, or one that is not built.
    """
    def clone(layer):
        kind = FusedBatchNormalization if type(layer) is keras.layers.BatchNormalization else type(layer)
        return kind.from_config(layer.get_config())

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
