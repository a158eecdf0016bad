"""Networks in .keras files, which contain their normalization and only Keras's own layers.

A file maps float images in 0 to 255, at the network's size, to logits. `keras.models.load_model`
loads it without this package. Inside a run the input pipeline normalizes, and batch normalization
is fused, so `load_network` undoes both conversions and returns the network that was trained.
"""

import dataclasses
import json
import re
import zipfile

import keras

from mlnt_tf.files import atomic
from mlnt_tf.models.layers import FusedBatchNormalization, clone_network

INPUT_NAME = "images_0_to_255"  # The input layer of a network that contains its normalization.
# The settings of fused batch normalization that only affect training.
TRAINING_SETTINGS = ("synchronized", "freeze_statistics")
DESCRIPTION = "mlnt_tf.json"  # The member of the .keras file with a `Description`.


@dataclasses.dataclass(frozen=True)
class Description:
    """The conversions that `load_network` undoes.

    Attributes:
      normalization: str, the name of the last layer of the normalization, or None if there is none.
      fused: dict, the batch normalization layers that are fused inside a run, by name. The values
        are their settings that only affect training, which the file's layers lack.
    """

    normalization: str
    fused: dict


class NetworkWriter:
    """Saves a network, possibly many times, as a .keras file that loads without this package.

    The converted network is built once. Each call of `write` copies the current weights into it.

    Args:
      network: a built functional or sequential model of normalized images.
      normalize: the normalization of the images: an object with a method `layers`, which returns
        Keras functions with the same results, the last of which is a layer. None for a network
        whose input is not normalized.
    """

    def __init__(self, network, normalize=None):
        self.network = network
        fused = {}
        self._plain = clone_network(network, lambda layer: _replace_fused(layer, fused))
        layers = normalize.layers() if normalize else []
        self._complete = _prepend(layers, self._plain) if layers else self._plain
        self.description = Description(layers[-1].name if layers else None, fused)

    def write(self, path):
        """Writes the network with its current weights.

        Args:
          path: str or path whose name ends in .keras.
        """
        self._plain.set_weights(self.network.get_weights())
        self._complete.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(DESCRIPTION, json.dumps(dataclasses.asdict(self.description)))


def write_network(network, path, *, normalize=None):
    """Saves a network once, completely or not at all; see `NetworkWriter`."""
    writer = NetworkWriter(network, normalize)
    with atomic.replacing(path) as scratch:
        writer.write(scratch)


def load_network(path):
    """Loads a network as it was trained: for normalized images, with fused batch normalization.

    A file of an earlier version contains no normalization, and is loaded as it is.

    Args:
      path: str or path of a .keras file.

    Returns:
      A Keras model that maps normalized images to logits.
    """
    network = keras.models.load_model(path, compile=False)
    _reserve_operation_names(network)
    description = read_description(path)
    if description is None:
        return network
    if description.normalization:
        normalized = network.get_layer(description.normalization).output
        network = keras.Model(normalized, network.outputs[0], name=network.name)

    def clone(layer):
        settings = layer.get_config()
        if layer.name in description.fused:
            settings |= description.fused[layer.name]
            return FusedBatchNormalization.from_config(settings)
        return type(layer).from_config(settings)

    return clone_network(network, clone)


def read_description(path):
    """Returns the `Description` in a .keras file, or None for one of an earlier version."""
    with zipfile.ZipFile(path) as archive:
        if DESCRIPTION not in archive.namelist():
            return None
        return Description(**json.loads(archive.read(DESCRIPTION)))


def contains_normalization(network):
    """Returns whether a network is a saved one that takes images in 0 to 255."""
    return [tensor.name for tensor in network.inputs] == [INPUT_NAME]


def _reserve_operation_names(network):
    """Makes Keras number new operations beyond those of a loaded network.

    Keras numbers the operations of a process, such as "cast_2", but does not count loaded ones. A
    model that contains a loaded and a new operation would be refused if their names were equal.
    """
    for operation in network.operations:
        if isinstance(operation, keras.Layer):
            continue
        prefix, number = re.fullmatch(r"(.*?)(?:_(\d+))?", operation.name).groups()
        while keras.backend.get_uid(prefix) <= int(number or 0):
            pass


def _replace_fused(layer, fused):
    """Clones a layer. A fused one becomes Keras's and gets an entry in the dict `fused`."""
    settings = layer.get_config()
    if type(layer) is not FusedBatchNormalization:
        return type(layer).from_config(settings)
    fused[layer.name] = {name: settings.pop(name) for name in TRAINING_SETTINGS}
    return keras.layers.BatchNormalization.from_config(settings)


def _prepend(layers, network):
    """Returns a flat model of these layers, followed by those of a network, whose weights it has.

    `call` of a functional model applies its layers one by one, unlike `__call__`.
    """
    images = keras.Input(network.input_shape[1:], name=INPUT_NAME)
    normalized = images
    for layer in layers:
        normalized = layer(normalized)
    return keras.Model(images, network.call(normalized), name=network.name)
