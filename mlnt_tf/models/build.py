"""Builds a network from its name in --model."""

import functools

import keras

from mlnt_tf.config import UserError, call_function
from mlnt_tf.models import applications, resnet
from mlnt_tf.models.submodels import feature_extractor

PREACT_RESNETS = {f"preact_resnet{depth}": functools.partial(resnet.preact_resnet, depth)
                  for depth in (8, 14, 20, 32)}
BUILDERS = {"cnn": resnet.cnn, **PREACT_RESNETS}


def build_network(name, *, width, input_shape, num_classes, seed, pretrained_weights="none"):
    """Builds a network by name at the initial weights of a seed. Sets Keras's global seed.

    Args:
      name: str, a key of BUILDERS, "resnet50" or "keras:NAME" (see `applications.build`), or
        "package.module:function". That function is called with width, input_shape and num_classes
        and returns a Keras network.
      width: int, the number of channels of the first stage.
      input_shape: (height, width, channels).
      num_classes: int, the number of logits.
      seed: int. The same seed gives the same weights.
      pretrained_weights: "none", or weights of a Keras Application.

    Returns:
      A Keras model that maps float images [batch, height, width, channels] to float32 logits
      [batch, classes].

    Raises:
      UserError: the name is unknown, or the user's function does not return a network with logits
        that can be saved and loaded.
    """
    keras.utils.set_random_seed(seed)
    if applications.is_application(name):
        return applications.build(name, input_shape=input_shape, num_classes=num_classes,
                                  pretrained_weights=pretrained_weights)
    if pretrained_weights != "none":
        raise UserError(f"--pretrained_weights={pretrained_weights} needs --model=resnet50 or "
                        f"--model=keras:NAME, but --model={name}. Use --pretrained_weights=none.")
    if name in BUILDERS:
        return BUILDERS[name](width=width, input_shape=input_shape, num_classes=num_classes)
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


def normalization(name):
    """Returns the normalization that a network's pretrained weights expect, or None.

    It is a function of RGB images in 0 to 255, see `applications.normalization`.
    """
    if applications.is_application(name):
        return applications.normalization(name)
    return None
