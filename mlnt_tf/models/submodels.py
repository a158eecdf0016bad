"""Parts of a network: its feature extractor, its body and its head, and the layers to freeze."""

import difflib
import re

import keras

from mlnt_tf.config import UserError
from mlnt_tf.models.layers import fuse_batch_norm

# The last stage begins after this layer: in networks of `models.resnet`, in Keras's ResNet50, and
# in EfficientNet-Lite0 and Keras's EfficientNetB0.
LAST_STAGE_FOLLOWS = ("stage2", "conv4_block6_out", "block5c_add")
# In larger networks of Keras, which have these layers, the stage does not end there.
LARGER_NETWORKS = ("conv4_block7_", "block5d_")
FREEZE_UNTIL = "until:"  # The prefix of --freeze that names a layer.
MAX_LISTED_LAYERS = 8


def freeze_layers(network, freeze, *, batch_norm=False):
    """Freezes a part of a network, as --freeze and --freeze_batch_norm ask.

    A frozen layer has `trainable = False`: training changes neither its weights nor the moving
    statistics of its batch normalization, which normalizes by them. Dropout has no weights and
    stays active in training, in a frozen layer too.

    Args:
      network: a built functional or sequential Keras model whose last layer outputs the logits. Its
        layers are frozen in place.
      freeze: "none", "body" for every layer but the last, or "until:LAYER" for the layers from the
        input to the one of that name, in the order of `network.summary()`. The layer may belong to
        a nested network.
      batch_norm: bool, whether all batch normalization uses its moving statistics and never updates
        them. Scale and offset of layers that are not frozen are still trained.

    Returns:
      The network, or a copy with the same weights if `batch_norm` is True.

    Raises:
      UserError: there is no such layer, its name is not unique to it in every process, nothing is
        left to train, or the batch normalization of the network cannot be replaced.
    """
    if freeze == "body":
        _last_layer(network)
        frozen = network.layers[:-1]
    elif freeze.startswith(FREEZE_UNTIL):
        frozen = _layers_until(network, freeze)
    else:
        frozen = []
    for layer in frozen:
        layer.trainable = False
    if frozen and not network.trainable_variables:
        raise UserError(f"--freeze={freeze} leaves nothing to train in {network.name!r}. Name an "
                        "earlier layer, or use --freeze=body, which trains the last one.")
    if not batch_norm:
        return network
    try:
        return fuse_batch_norm(network, freeze_statistics=True)
    except ValueError as error:
        raise UserError(f"--freeze_batch_norm does not fit this network ({error}). Omit it, or "
                        "choose another --model.") from error


def _layers_until(network, freeze):
    """Returns the layers from the input to the one that `freeze`, "until:LAYER", names.

    Raises:
      UserError: there is no such layer, or Keras has numbered it.
    """
    name = freeze.removeprefix(FREEZE_UNTIL)
    layers = _layers_in_order(network)
    names = [layer.name for layer in layers]
    fixed = [layer.name for layer in layers if not _is_numbered(layer)]
    if name in fixed:
        return layers[:names.index(name) + 1]
    if name in names:
        reason = ("but Keras has chosen this name, and its number differs between two networks of "
                  "a process. Give the layer a name of its own, or choose another")
    else:
        reason = "but there is no such layer. Choose one"
    listed = difflib.get_close_matches(name, fixed, n=MAX_LISTED_LAYERS // 2, cutoff=0.5)
    step = -(-len(fixed) // MAX_LISTED_LAYERS) or 1
    listed += [other for other in fixed[step - 1::step] if other not in listed]
    raise UserError(f"--freeze={freeze} names a layer of {network.name!r}, {reason}, for example "
                    f"{', '.join(listed[:MAX_LISTED_LAYERS]) or 'none, as no layer has one'}.")


def _layers_in_order(network):
    """Returns the layers of a network from input to output; a nested network is its layers."""
    layers = []
    for layer in network.layers:
        layers += _layers_in_order(layer) if isinstance(layer, keras.Model) else [layer]
    return layers


def _is_numbered(layer):
    """Whether Keras has named a layer after its class, like "conv2d_7"."""
    stem = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    return any(stem == base.__name__.lower() for base in type(layer).__mro__)


def feature_extractor(network: keras.Model, features: str = "penultimate") -> keras.Model:
    """Returns the part of a network that computes the features for the neighbor search.

    Args:
      network: a functional or sequential Keras model whose last layer outputs the logits.
      features: "penultimate", the input of that layer, or "logits".

    Returns:
      A Keras model that shares the network's weights and maps images to float32 [batch, features].

    Raises:
      ValueError: the kind of features is unknown, or the last layer does not output the logits.

    Example:

    ```python
    network = keras.Sequential([
        keras.Input([4]), keras.layers.Dense(5), keras.layers.Dense(3)])
    extractor = mlnt_tf.feature_extractor(network)
    assert extractor(np.zeros([2, 4])).shape == (2, 5)
    ```
    """
    if features not in ("penultimate", "logits"):
        raise ValueError("features must be 'penultimate' or 'logits'. "
                         f"Received: features={features!r}")
    if features == "penultimate":
        source = _last_layer(network).input
    else:
        source = network.outputs[0]
    return keras.Model(network.inputs, keras.ops.cast(source, "float32"))


def mirror_averaged(extractor):
    """Returns a model that averages the features of an image and of its mirror image.

    Args:
      extractor: Keras model from images [batch, height, width, channels] to features.
    """
    images = keras.Input(extractor.input_shape[1:])
    mirrored = keras.ops.flip(images, axis=2)
    average = (extractor(images) + extractor(mirrored)) / 2
    return keras.Model(images, average, name="mirror_averaged")


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
        # A layer with several inputs has a list of them, or none if it is called several times.
        has_logits = has_logits and not isinstance(last.input, (list, tuple))
    except (AttributeError, TypeError, ValueError):
        has_logits = False
    if not has_logits or getattr(last, "activation", None) not in (None, keras.activations.linear):
        raise ValueError("The network must be a built functional or sequential model whose last "
                         "layer outputs the logits: a layer with weights and without activation. "
                         f"Received: {type(network).__name__} {network.name!r}")
    return last
