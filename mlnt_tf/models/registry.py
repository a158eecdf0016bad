"""Networks by name."""

import functools

import keras

from mlnt_tf.config import UserError, call_function
from mlnt_tf.models import applications, resnet

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
        raise UserError(f"--model={name}: {error}") from error
    return network


def normalization(name):
    """The function of images in 0 to 255 that a network's own weights were trained with, or None."""
    return applications.normalization(name) if applications.is_application(name) else None


def feature_extractor(network, features="penultimate"):
    """The part of a network that gives the features neighbours are near in.

    Args:
      network: a functional or sequential model whose last layer gives the logits.
      features: "penultimate", the input of that layer, or "logits".

    Returns:
      a Keras model that shares the network's weights: images to float32 [batch, features].

    Raises:
      ValueError: an unknown kind of features, or a network whose last layer does not give the logits.
    """
    if features not in ("penultimate", "logits"):
        raise ValueError(f"features must be 'penultimate' or 'logits'. Received: features={features!r}")
    try:
        (output,), last = network.outputs, network.layers[-1]
        gives_logits = output is last.output and last.weights and not isinstance(last, keras.Model)
        source = last.input if features == "penultimate" else output
    except (AttributeError, TypeError, ValueError):  # subclassed, not built, or of several outputs
        gives_logits = False
    if not gives_logits or getattr(last, "activation", None) not in (None, keras.activations.linear):
        raise ValueError("features need a built functional or sequential model whose last layer gives the logits "
                         f"(weights, no activation). Received: {type(network).__name__} {network.name!r}")
    return keras.Model(network.inputs, keras.ops.cast(source, "float32"))
