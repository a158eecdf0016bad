"""Networks by name."""

import functools

import keras

from mlnt_tf.config import UserError, call_function
from mlnt_tf.models import applications, resnet

BUILDERS = {"cnn": resnet.cnn,
            **{f"preact_resnet{depth}": functools.partial(resnet.preact_resnet, depth) for depth in (8, 14, 20, 32)}}

LAST_STAGE_FOLLOWS = ("stage2", "conv4_block6_out")  # in the networks here; in Keras's ResNet50


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
    source = _last_layer(network).input if features == "penultimate" else network.outputs[0]
    return keras.Model(network.inputs, keras.ops.cast(source, "float32"))


def split_network(network, fast_weights):
    """The network in two: what the inner step leaves alone, and what it moves.

    Args:
      network: a functional or sequential model whose last layer gives the logits.
      fast_weights: "head", that layer, or "last_stage", all that follows the layer named in LAST_STAGE_FOLLOWS.

    Returns:
      (body, head): Keras models that share the network's weights, images to features and features to logits.

    Raises:
      ValueError: a network that cannot be cut there: of no such layer, or with paths or weights around it.
    """
    last = _last_layer(network)
    cut = last.input
    if fast_weights == "last_stage":
        found = [layer.output for layer in network.layers if layer.name in LAST_STAGE_FOLLOWS]
        if any(layer.name.startswith("conv4_block7_") for layer in network.layers):
            found = []  # a deeper ResNet of Keras, whose stage goes on
        if not found:
            raise ValueError("fast_weights='last_stage' needs a layer named "
                             f"{' or '.join(LAST_STAGE_FOLLOWS)}, which the last stage follows. Received: network "
                             f"{network.name!r} without")
        cut = found[0]
    try:
        body, head = keras.Model(network.inputs, cut), keras.Model(cut, network.outputs[0])
    except ValueError as error:
        raise ValueError(f"fast_weights={fast_weights!r} needs a network whose every path leads through {cut.name!r}. "
                         f"Received: {network.name!r}") from error
    if len(body.weights) + len(head.weights) != len(network.weights):
        raise ValueError(f"fast_weights={fast_weights!r} needs a network that shares no weights across "
                         f"{cut.name!r}. Received: {network.name!r}")
    return body, head


def _last_layer(network):
    """The layer that gives the logits.

    Raises:
      ValueError: the network is subclassed or not built, or its last layer does not give the logits.
    """
    try:
        (output,), last = network.outputs, network.layers[-1]
        gives_logits = output is last.output and last.weights and not isinstance(last, keras.Model)
        _ = last.input  # of several inputs: none
    except (AttributeError, TypeError, ValueError):  # subclassed, not built, or of several outputs
        gives_logits = False
    if not gives_logits or getattr(last, "activation", None) not in (None, keras.activations.linear):
        raise ValueError("features need a built functional or sequential model whose last layer gives the logits "
                         f"(weights, no activation). Received: {type(network).__name__} {network.name!r}")
    return last
