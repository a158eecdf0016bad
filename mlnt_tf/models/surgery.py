"""Parts of a network: its feature extractor, its body and its head."""

import keras

LAST_STAGE_FOLLOWS = ("stage2", "conv4_block6_out")  # in the networks here; in Keras's ResNet50


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
