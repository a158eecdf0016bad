"""Networks of Keras Applications, with their pretrained weights and their normalization."""

import dataclasses
import functools
import inspect
import os
import re
import typing

import keras
import numpy as np

from mlnt_tf.config import UserError
from mlnt_tf.models.layers import fuse_batch_norm
from mlnt_tf.models.normalization import rescaling
from mlnt_tf.models.resnet import classifier

NAMES = {"resnet50": "ResNet50"}  # Names without "keras:".


def is_application(model):
    """Whether --model names a network of Keras Applications."""
    return model in NAMES or model.startswith("keras:")


def find_application(model):
    """Returns the function of `keras.applications` that --model names.

    Raises:
      UserError: Keras has no network of this name.
    """
    name = NAMES.get(model, model.removeprefix("keras:"))
    function = getattr(keras.applications, name, None)
    if not inspect.isfunction(function):
        names = sorted(name for name, value in vars(keras.applications).items()
                       if inspect.isfunction(value))
        raise UserError(f"--model={model} is not known. Keras has {', '.join(names)}.")
    return function


@dataclasses.dataclass(frozen=True)
class ApplicationNormalization:
    """The normalization of a network of Keras Applications.

    Attributes:
      preprocess_input: function of the network's module.
    """

    preprocess_input: typing.Callable

    def __call__(self, images):
        """Maps RGB images [..., height, width, 3] in 0 to 255 to float32 images."""
        images = keras.ops.cast(images, "float32")
        return self.preprocess_input(images, data_format="channels_last")

    def layers(self):
        """Returns Keras layers with the same results up to rounding, for a saved network.

        Every `preprocess_input` scales and shifts the channels. Some reverse their order. The
        function's values at black and at the three primary colors give the constants.
        """
        probes = 255.0 * np.concatenate([np.zeros([1, 3]), np.eye(3)])
        offset, *primaries = self.preprocess_input(probes[:, None, None, :])[:, 0, 0, :]
        matrix = (np.array(primaries) - offset) / 255.0  # [channel of input, channel of output]
        reverses = not np.diag(matrix).all()
        scale = np.diag(matrix[::-1] if reverses else matrix)
        layers = [functools.partial(keras.ops.flip, axis=-1)] if reverses else []
        if (scale != 1).any() or offset.any():
            layers.append(rescaling(scale, offset))
        return layers


def normalization(model):
    """Returns the `ApplicationNormalization` of a network."""
    return ApplicationNormalization(inspect.getmodule(find_application(model)).preprocess_input)


def build(model, *, input_shape, num_classes, pretrained_weights="none"):
    """Builds a network of Keras Applications with a new layer of logits.

    The features are averaged over all pixels, and batch normalization is fused.

    Args:
      model: "resnet50" or "keras:NAME".
      input_shape: (height, width, 3).
      num_classes: int, the number of logits.
      pretrained_weights: "none", "imagenet", or the path of a weights file without the top layer,
        in the format of `keras.Model.save_weights`.

    Returns:
      A functional model that maps float images [batch, height, width, 3] to float32 logits [batch,
      classes].

    Raises:
      UserError: the weights cannot be downloaded or do not fit the network, or the network cannot
        process images of this shape.
    """
    function = find_application(model)
    if input_shape[2] != 3:
        raise UserError(f"--model={model} needs images with 3 channels, but these have "
                        f"{input_shape[2]}. Choose another --model.")
    if pretrained_weights not in ("none", "imagenet") and not os.path.isfile(pretrained_weights):
        raise UserError(f"--pretrained_weights={pretrained_weights} is not a file. Use the path of "
                        "a weights file, imagenet or none.")
    try:
        base = function(include_top=False, weights=None, input_shape=input_shape)
    except ValueError as error:
        shape = " x ".join(map(str, input_shape))
        raise UserError(f"--model={model} cannot process images of {shape} (height x width x "
                        f"channels): {' '.join(str(error).split())} Set --image_size or "
                        "--crop_size.") from error
    if pretrained_weights == "imagenet":
        try:
            base = function(include_top=False, weights="imagenet", input_shape=input_shape)
        except Exception as error:  # Networks, proxies and damaged files raise many types.
            raise UserError(missing_weights_message(model, error)) from error
    elif pretrained_weights != "none":
        try:
            base.load_weights(pretrained_weights)
        except Exception as error:  # h5py and Keras raise many types.
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--pretrained_weights={pretrained_weights} does not fit "
                            f"--model={model} without its top layer ({reason}). Use weights of "
                            "this network, imagenet or none.") from error
    name = model.removeprefix("keras:")
    return fuse_batch_norm(classifier(base.input, base.output, num_classes, name=name))


def missing_weights_message(model, error):
    """One line for weights that cannot be downloaded: the reason and where to put the file.

    Args:
      model: str, as in --model.
      error: the exception that Keras raised. Its text may contain the URL.
    """
    keras_home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    directory = os.path.join(keras_home, "models")
    text = str(error)
    reason = " ".join((text.partition(": None -- ")[2] or text).split())
    fix = f"Put them into {directory}"
    url = re.search(r"https?://[^\s:]+/([^\s:/]+)", text)
    if url:
        fix = f"Download {url.group(0)} to {os.path.join(directory, url.group(1))}"
    return (f"--pretrained_weights=imagenet: the weights of --model={model} are not in {directory} "
            f"and cannot be downloaded ({reason}). {fix}, or use --pretrained_weights=FILE or "
            "none.")
