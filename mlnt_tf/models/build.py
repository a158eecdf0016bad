"""Networks by name."""

import functools

import keras

from mlnt_tf.config import UserError, call_function
from mlnt_tf.models import applications, resnet
from mlnt_tf.models.surgery import feature_extractor

BUILDERS = {"cnn": resnet.cnn,
            **{f"preact_resnet{depth}": functools.partial(resnet.preact_resnet, depth) for depth in (8, 14, 20, 32)}}


def build_network(name, *, width, input_shape, num_classes, seed, pretrained_weights="none"):
    """The network `name` at the initial weights of `seed`; sets Keras's global seed on the way.

    Args:
      name: one of BUILDERS, "resnet50" or "keras:NAME" (see `applications.build`), or "package.module:function", which
        is called with width, input_shape and num_classes and gives a Keras network.
      width: channels of the first stage.
      input_shape: (height, width, channels).
      num_classes: of the logits.
      seed: the same seed gives the same weights.
      pretrained_weights: of Keras Applications.

    Returns:
      a Keras model, float images [batch, height, width, channels] to float32 logits [batch, classes].

    Raises:
      UserError: no such network, or one that gives no logits.
    """
    keras.utils.set_random_seed(seed)
    if applications.is_application(name):
        return applications.build(name, input_shape=input_shape, num_classes=num_classes,
                                  pretrained_weights=pretrained_weights)
    if pretrained_weights != "none":
        raise UserError(f"--pretrained_weights={pretrained_weights} goes with --model=resnet50 or keras:NAME alone, not "
                        f"with --model={name}: take none.")
    if name in BUILDERS:
        return BUILDERS[name](width=width, input_shape=input_shape, num_classes=num_classes)
    if ":" not in name:
        raise UserError(f"--model={name} is not known: choose one of {', '.join(BUILDERS)}.")
    network = call_function("model", name, width=width, input_shape=input_shape, num_classes=num_classes)
    shape = getattr(network, "output_shape", None)
    if not isinstance(network, keras.Model) or shape != (None, num_classes):
        raise UserError(f"--model={name} returned {type(network).__name__} of output shape {shape}: it must return a "
                        f"built Keras network that gives {num_classes} logits.")
    try:
        feature_extractor(network)
    except ValueError as error:
        raise UserError(f"--model={name}: {' '.join(str(error).split())}") from error
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))  # as the end of a stage does
    except (ValueError, TypeError) as error:
        raise UserError(f"--model={name} cannot be saved and loaded again: give layers of your own the decorator "
                        "@keras.saving.register_keras_serializable(), and use no Lambda layer "
                        f"({' '.join(str(error).split())[:120]}…).") from error
    return network


def normalization(name):
    """The function of images in 0 to 255 that a network's own weights were trained with, or None."""
    return applications.normalization(name) if applications.is_application(name) else None
