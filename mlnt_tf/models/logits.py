"""Removes a final softmax, because the losses take logits."""

import keras


def logits_of(network: keras.Model) -> keras.Model:
    """Returns a network that computes the logits whose softmax `network` computes.

    All layers are shared with `network`, except that a last layer with activation="softmax" is
    replaced by a copy without it. Source: log-softmax losses as in Keras's `from_logits=True`.

    Args:
      network: a functional or sequential Keras network that maps images [batch, height, width,
        channels] to probabilities [batch, classes]. Its last layer is a Softmax layer, or has
        activation="softmax".

    Returns:
      A Keras model that maps the same images to logits [batch, classes].

    Raises:
      ValueError: the network does not end in a softmax that can be removed.

    Example:

    ```python
    network = keras.Sequential([
        keras.Input([4]), keras.layers.Dense(3, activation="softmax")])
    logits = mlnt_tf.logits_of(network)
    keras.ops.softmax(logits(np.ones([1, 4])))  # what network(np.ones([1, 4])) gives
    ```
    """
    layers = getattr(network, "layers", None) or [None]
    last = layers[-1]
    is_softmax = getattr(last, "activation", None) is keras.activations.softmax
    if isinstance(last, keras.layers.Softmax) or (is_softmax and not last.weights):
        return keras.Model(network.inputs, last.input)
    if not is_softmax or isinstance(last, keras.Model):
        raise ValueError("The network must be functional or sequential and end in a softmax. "
                         f"Received: {network.name!r}, whose last layer is "
                         f"{type(last).__name__}")
    head = type(last).from_config({**last.get_config(), "activation": "linear"})
    logits = head(last.input)
    head.set_weights(last.get_weights())
    return keras.Model(network.inputs, logits)
