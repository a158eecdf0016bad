"""Networks by name."""

import functools

import keras

from mlnt_tf.config import UserError
from mlnt_tf.models import resnet

BUILDERS = {"cnn": resnet.cnn,
            **{f"preact_resnet{depth}": functools.partial(resnet.preact_resnet, depth) for depth in (8, 14, 20, 32)}}


def build_network(name, *, width, input_shape, num_classes, seed):
    """The network `name` at the initial weights of `seed`; sets Keras's global seed on the way.

    Args:
      name: one of BUILDERS.
      width: channels of the first stage.
      input_shape: (height, width, channels).
      num_classes: of the logits.
      seed: the same seed gives the same weights.

    Returns:
      a Keras model, float images [batch, height, width, channels] to float32 logits [batch, classes].

    Raises:
      UserError: no such network.
    """
    if name not in BUILDERS:
        raise UserError(f"--model={name} is not known: choose one of {', '.join(BUILDERS)}.")
    keras.utils.set_random_seed(seed)
    return BUILDERS[name](width=width, input_shape=input_shape, num_classes=num_classes)


def normalization(name):
    """The function of images in 0 to 255 that a network's own weights were trained with, or None."""
    return None


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
