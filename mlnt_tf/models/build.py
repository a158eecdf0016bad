"""Builds a network from its name in --model."""

import functools

import keras

from mlnt_tf.config import UserError, call_function
from mlnt_tf.models import applications, pretrained, resnet
from mlnt_tf.models.efficientnet_lite import efficientnet_lite0
from mlnt_tf.models.submodels import feature_extractor

PREACT_RESNETS = {f"preact_resnet{depth}": functools.partial(resnet.preact_resnet, depth)
                  for depth in (8, 14, 20, 32)}
BUILDERS = {"cnn": resnet.cnn, **PREACT_RESNETS, "efficientnet_lite0": efficientnet_lite0}


def build_network(name: str, *, width: int, input_shape: tuple, num_classes: int, seed: int,
                  pretrained_weights: str = "none") -> keras.Model:
    """Builds a network by name at the initial weights of a seed. Sets Keras's global seed.

    Args:
      name: str, a key of BUILDERS, "resnet50" or "keras:NAME" (see `applications.build`), or
        "package.module:function". That function is called with width, input_shape and num_classes
        and returns a Keras network.
      width: int, the number of channels of the first stage.
      input_shape: (height, width, channels).
      num_classes: int, the number of logits.
      seed: int. The same seed gives the same weights.
      pretrained_weights: "none", "imagenet", or for a Keras Application a file of weights.

    Returns:
      A Keras model that maps float images [batch, height, width, channels] to float32 logits
      [batch, classes].

    Raises:
      UserError: the name is unknown, or the user's function does not return a network with logits
        that can be saved and loaded.

    Example:

    ```python
    network = mlnt_tf.build_network(
        "cnn", width=4, input_shape=(8, 8, 1), num_classes=3, seed=0)
    logits = network(np.zeros([2, 8, 8, 1]))
    ```
    """
    keras.utils.set_random_seed(seed)
    if applications.is_application(name):
        return applications.build(name, input_shape=input_shape, num_classes=num_classes,
                                  pretrained_weights=pretrained_weights)
    record = pretrained_record(name, pretrained_weights, channels=input_shape[2])
    if name in BUILDERS:
        network = BUILDERS[name](width=width, input_shape=input_shape, num_classes=num_classes)
        if record is not None:
            pretrained.load_pretrained(network, record)
        return network
    if ":" not in name:
        raise UserError(f"--model={name} is not known. Choose one of {', '.join(BUILDERS)}, "
                        "resnet50, keras:NAME or package.module:function.")
    network = call_function("model", name, width=width, input_shape=input_shape,
                            num_classes=num_classes)
    _check_user_network(name, network, num_classes)
    return network


def _check_user_network(name, network, num_classes):
    """Verifies that a user's network is built, ends in logits and can be saved and loaded."""
    shape = getattr(network, "output_shape", None)
    if not isinstance(network, keras.Model) or shape != (None, num_classes):
        raise UserError(f"--model={name} returned {type(network).__name__} with output shape "
                        f"{shape}. Return a built Keras network with {num_classes} logits.")
    try:
        feature_extractor(network)
    except ValueError as error:
        raise UserError(f"--model={name}: {' '.join(str(error).split())}") from error
    try:
        serialized = keras.saving.serialize_keras_object(network)
        keras.saving.deserialize_keras_object(serialized)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"--model={name} cannot be saved and loaded ({reason}…). Decorate your own "
                        "layers with @keras.saving.register_keras_serializable(), and do not use "
                        "Lambda layers.") from error


def pretrained_record(name, pretrained_weights, *, channels):
    """Returns the `PretrainedWeights` that the two flags name, or None for "none".

    Raises:
      UserError: the network has no such weights, or they do not fit the images.
    """
    if pretrained_weights == "none":
        return None
    record = pretrained.RECORDS.get(name)
    if record is None:
        raise UserError(f"--model={name} has no pretrained weights, but --pretrained_weights="
                        f"{pretrained_weights}. Set --pretrained_weights=none, or --model to "
                        f"{', '.join(pretrained.RECORDS)}, resnet50 or keras:NAME.")
    if record.name != pretrained_weights:
        raise UserError(f"--pretrained_weights={pretrained_weights} is not known for "
                        f"--model={name}. Choose {record.name} or none.")
    if channels != 3:
        raise UserError(f"--pretrained_weights={pretrained_weights} needs images with 3 channels, "
                        f"but these have {channels}. Set --pretrained_weights=none.")
    return record


def normalization(name):
    """Returns the normalization that a network's published weights expect, or None.

    It is a function of images in 0 to 255, see `applications.normalization`. It depends on the
    network alone: a network without pretrained weights gets it too.
    """
    if applications.is_application(name):
        return applications.normalization(name)
    return pretrained.RECORDS[name].normalization if name in pretrained.RECORDS else None
