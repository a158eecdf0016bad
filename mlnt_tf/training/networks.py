"""Checks of the network that a model trains, the clone that becomes its teacher, and their pairing.
"""

import keras
import numpy as np
import tensorflow as tf

from mlnt_tf.data.pipeline import batch_neighbor_labels
from mlnt_tf.models.submodels import feature_extractor
from mlnt_tf.training.keras_internals import nested_layers, parameters

PROBE_ROWS = 8
UNKNOWN_SIZE = 32  # Pixels, for an image size that the network leaves open.


def check_network(network):
    """Raises ValueError unless the network is a built Keras network that computes in a wide type.
    """
    if not isinstance(network, keras.Model):
        raise ValueError("The network must be a keras.Model that maps images to logits. "
                         f"Received: {type(network).__name__}")
    if not network.built:
        raise ValueError("The network must be built: add a keras.Input, or call it once. "
                         f"Received: {network.name!r}, which has no weights yet")
    for layer in [network, *nested_layers(network)]:
        if layer.dtype_policy.compute_dtype == "float16":
            raise ValueError("float16 loses the small values of meta gradients. Use the dtype "
                             "policy mixed_bfloat16 or float32. "
                             f"Received: layer {layer.name!r} with {layer.dtype_policy.name}")


def count_classes(network, *, run):
    """Runs one random batch, checks that the outputs are logits, and returns their number.

    Args:
      network: a built Keras network.
      run: False to trust the network's output shape instead.

    Raises:
      ValueError: the outputs are not [batch, classes], or each row sums to 1, as after a softmax.
    """
    shape = _input_shape(network) if run else None
    if shape is None:
        return network.output_shape[-1]
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = network(images, training=False)
    if not tf.is_tensor(outputs) or len(outputs.shape) != 2:
        received = getattr(outputs, "shape", type(outputs).__name__)
        raise ValueError("The network must map a batch of images to logits [batch, classes]. "
                         f"Received: outputs {received}")
    is_half = outputs.dtype in (tf.bfloat16, tf.float16)
    outputs = np.asarray(tf.cast(outputs, tf.float32))
    sums_to_one = np.allclose(outputs.sum(axis=1), 1, rtol=0, atol=2e-2 if is_half else 1e-3)
    if sums_to_one and (outputs > 0).all():
        raise ValueError("The network ends in a softmax, but the losses need logits. Pass "
                         "mlnt_tf.logits_of(network), or remove the softmax. "
                         f"Received: {network.name!r}, whose outputs sum to 1")
    return outputs.shape[1]


def _input_shape(network):
    """The shape of a batch for the network, or None if it does not say or has several inputs."""
    try:
        shape = network.input_shape
    except AttributeError:
        config = network.get_build_config() or {}
        shape = config.get("input_shape")
    if not isinstance(shape, (tuple, list)) or not all(isinstance(size, (int, type(None)))
                                                       for size in shape):
        return None
    return (PROBE_ROWS, *(UNKNOWN_SIZE if size is None else size for size in shape[1:]))


def clone(network):
    """Returns a clone of the network with the same weights.

    Raises:
      ValueError: the network cannot be cloned.
    """
    try:
        copy = keras.models.clone_model(network)
    except (TypeError, NotImplementedError) as error:
        raise ValueError("The teacher is a clone of the network, which must be functional, "
                         "sequential or have a get_config. "
                         f"Received: {type(network).__name__}") from error
    if not copy.built:
        copy.build_from_config(network.get_build_config())
    if len(copy.weights) != len(network.weights):  # Some layers are built when they are called.
        copy(np.zeros(_input_shape(network), np.float32))
    copy.set_weights(network.get_weights())
    return copy


def features_or_logits(network):
    """Returns the network's penultimate features as a network, or itself if it has no such part."""
    try:
        return feature_extractor(network)
    except ValueError:
        return network


def search_in_batch(extractor, batch, num_neighbors):
    """Returns the labels of each example's neighbors in the batch, int32 [batch, neighbors].

    Args:
      extractor: a network that maps images to the features to compare.
      batch: dict with "image" and "label".
      num_neighbors: int. A smaller batch uses all other examples.
    """
    features = tf.cast(extractor(batch["image"], training=False), tf.float32)
    batch_size = tf.shape(features)[0]
    # The only example of a batch is its own neighbor, so its label stays.
    num_neighbors = tf.clip_by_value(num_neighbors, 1, tf.maximum(batch_size - 1, 1))
    return batch_neighbor_labels(features, tf.range(batch_size), batch["label"], num_neighbors)


def copy_trainable_flags(source, target):
    """Freezes the layers of `target` that are frozen in `source`, and unfreezes the others.

    A frozen batch normalization uses moving statistics, which both networks must do alike.
    """
    target.trainable = source.trainable
    for layer, other in zip(nested_layers(source), nested_layers(target)):
        other.trainable = layer.trainable


def pair_parameters(teacher, student):
    """Returns the list of (teacher's variable, student's variable) that training can change.

    Frozen variables of the student are left out.

    Raises:
      ValueError: the two networks do not have the same variables.
    """
    averages, sources = parameters(teacher), parameters(student)
    shapes = [tuple(variable.shape) for variable in averages]
    if shapes != [tuple(variable.shape) for variable in sources]:
        raise ValueError("The teacher must have the same weights as the student, which must not "
                         "gain or lose layers. "
                         f"Received: {len(averages)} and {len(sources)} variables")
    return [(average, source) for average, source in zip(averages, sources) if source.trainable]


def changing_statistics(network, *, floating=True):
    """Returns the non-trainable variables that a training pass may change, such as moving averages.

    Those of frozen layers stay as they are. An average of them would only add rounding errors.

    Args:
      network: a Keras network.
      floating: whether to leave out states of random number generators, which are integers.
    """
    fixed = {id(variable) for layer in nested_layers(network)
             if not layer.trainable or getattr(layer, "freeze_statistics", False)
             for variable in layer.variables}
    return [variable for variable in network.non_trainable_variables if id(variable) not in fixed
            and (not floating or tf.as_dtype(variable.dtype).is_floating)]


def random_states(network):
    """Returns the variables with the states of a network's random number generators."""
    weights = {id(weight) for weight in network.weights}
    return [variable for variable in network.variables
            if id(variable) not in weights and tf.as_dtype(variable.dtype).is_integer]
