"""The head of the noise-corrected probe as Keras layers, and networks that begin with it.

`labels.probe` describes the head: it standardizes the features, projects them to principal
components, scales each row to a fixed norm and ends in a linear layer. Only that last layer is
trained. All layers are Keras's own.
"""

import keras

from mlnt_tf.labels.probe import INITIAL_DEVIATION, ROW_NORM
from mlnt_tf.models.submodels import feature_extractor


def add_head(features, projection, num_classes):
    """Adds the layers of the head, with initial weights.

    Args:
      features: float Keras tensor [batch, features].
      projection: `labels.probe.Projection`.
      num_classes: int.

    Returns:
      Keras tensor of float32 logits [batch, classes].
    """
    components = projection.components
    x = keras.layers.Normalization(mean=projection.mean, variance=projection.deviation**2,
                                   dtype="float32", name="standardize")(features)
    x = keras.layers.Dense(
        components.shape[1], use_bias=False, trainable=False, dtype="float32", name="project",
        kernel_initializer=keras.initializers.Constant(0))(x)
    x = keras.layers.UnitNormalization(dtype="float32", name="unit_norm")(x)
    x = keras.layers.Rescaling(ROW_NORM, dtype="float32", name="row_norm")(x)
    return keras.layers.Dense(
        num_classes, dtype="float32", name="logits",
        kernel_initializer=keras.initializers.RandomNormal(stddev=INITIAL_DEVIATION))(x)


def new_head(projection, num_classes, *, seed):
    """Returns a head on its own, at the initial weights of a seed. Sets Keras's global seed.

    Args:
      projection: `labels.probe.Projection`.
      num_classes: int.
      seed: int.

    Returns:
      A functional model that maps float features [batch, features] to float32 logits [batch,
      classes].
    """
    keras.utils.set_random_seed(seed)
    features = keras.Input([len(projection.mean)])
    head = keras.Model(features, add_head(features, projection, num_classes), name="head")
    head.get_layer("project").set_weights([projection.components])
    return head


def replace_head(network, probe):
    """Replaces the last layer of a network by the head of a probe.

    Args:
      network: a functional or sequential model whose last layer outputs the logits.
      probe: `labels.probe.Probe`, fitted on features of this network.

    Returns:
      A functional model with the same input. It shares the weights of the other layers.

    Raises:
      ValueError: see `feature_extractor`.
    """
    body = feature_extractor(network)
    num_classes = probe.weights.shape[1]
    logits = add_head(body.outputs[0], probe.projection, num_classes)
    replaced = keras.Model(network.inputs[0], logits, name=network.name)
    replaced.get_layer("project").set_weights([probe.projection.components])
    replaced.get_layer("logits").set_weights([probe.weights[:-1], probe.weights[-1]])
    return replaced
