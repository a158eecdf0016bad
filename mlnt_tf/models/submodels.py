"""Parts of a network that share its weights: the feature extractor, the body and the head."""

import keras

# The last stage begins after this layer: in networks of `models.resnet`, in Keras's ResNet50, and
# in EfficientNet-Lite0 and Keras's EfficientNetB0.
LAST_STAGE_FOLLOWS = ("stage2", "conv4_block6_out", "block5c_add")
# In larger networks of Keras, which have these layers, the stage does not end there.
LARGER_NETWORKS = ("conv4_block7_", "block5d_")


def feature_extractor(network, features="penultimate"):
    """Returns the part of a network that computes the features for the neighbor search.

    Args:
      network: a functional or sequential Keras model whose last layer outputs the logits.
      features: "penultimate", the input of that layer, or "logits".

    Returns:
      A Keras model that shares the network's weights and maps images to float32 [batch, features].

    Raises:
      ValueError: the kind of features is unknown, or the last layer does not output the logits.
    """
    if features not in ("penultimate", "logits"):
        raise ValueError("features must be 'penultimate' or 'logits'. "
                         f"Received: features={features!r}")
    if features == "penultimate":
        source = _last_layer(network).input
    else:
        source = network.outputs[0]
    return keras.Model(network.inputs, keras.ops.cast(source, "float32"))


def split_network(network, fast_weights):
    """Splits a network into a body, whose weights the inner step keeps, and a head, which it moves.

    Args:
      network: a functional or sequential Keras model whose last layer outputs the logits.
      fast_weights: "head" for the last layer, or "last_stage" for everything after the layer named
        in LAST_STAGE_FOLLOWS.

    Returns:
      (body, head): Keras models that share the network's weights. The body maps images to features,
      the head maps features to logits.

    Raises:
      ValueError: the network has no such layer, or a path or a shared weight bypasses it.
    """
    last = _last_layer(network)
    cut = last.input
    if fast_weights == "last_stage":
        cut = _last_stage_input(network)
    try:
        body = keras.Model(network.inputs, cut)
        head = keras.Model(cut, network.outputs[0])
    except ValueError as error:
        raise ValueError(f"fast_weights={fast_weights!r} needs a network in which every path leads "
                         f"through {cut.name!r}. Received: {network.name!r}") from error
    if len(body.weights) + len(head.weights) != len(network.weights):
        raise ValueError(f"fast_weights={fast_weights!r} needs a network that shares no weights "
                         f"across {cut.name!r}. Received: {network.name!r}")
    return body, head


def _last_stage_input(network):
    """The output of the layer before the last stage.

    Raises:
      ValueError: the network has no layer with one of the known names.
    """
    outputs = [layer.output for layer in network.layers if layer.name in LAST_STAGE_FOLLOWS]
    is_larger = any(layer.name.startswith(LARGER_NETWORKS) for layer in network.layers)
    if not outputs or is_larger:
        raise ValueError("fast_weights='last_stage' needs a network whose last stage follows a "
                         f"layer named {' or '.join(LAST_STAGE_FOLLOWS)}. "
                         f"Received: {network.name!r}")
    return outputs[0]


def _last_layer(network):
    """The layer that outputs the logits.

    Raises:
      ValueError: the network is subclassed or not built, has several outputs, or its last layer
        does not output the logits.
    """
    try:
        (output,) = network.outputs
        last = network.layers[-1]
        has_logits = output is last.output and last.weights and not isinstance(last, keras.Model)
        _ = last.input  # Raises if the layer has several inputs.
    except (AttributeError, TypeError, ValueError):
        has_logits = False
    if not has_logits or getattr(last, "activation", None) not in (None, keras.activations.linear):
        raise ValueError("The network must be a built functional or sequential model whose last "
                         "layer outputs the logits: a layer with weights and without activation. "
                         f"Received: {type(network).__name__} {network.name!r}")
    return last
