"""Networks of Keras Applications, with their weights and the normalization these were trained with."""

import inspect
import os
import re

import keras

from mlnt_tf.config import UserError
from mlnt_tf.models.layers import fuse_batch_norm
from mlnt_tf.models.resnet import classifier

NAMES = {"resnet50": "ResNet50"}  # more names of ours come as keras:NAME


def is_application(model):
    """Whether --model names a network of Keras Applications."""
    return model in NAMES or model.startswith("keras:")


def application_of(model):
    """The function of `keras.applications` that --model names.

    Raises:
      UserError: there is none of this name.
    """
    name = NAMES.get(model, model.removeprefix("keras:"))
    function = getattr(keras.applications, name, None)
    if not inspect.isfunction(function):
        known = [name for name, value in vars(keras.applications).items() if inspect.isfunction(value)]
        raise UserError(f"--model={model} is not known: Keras has {', '.join(sorted(known))}.")
    return function


def normalization(model):
    """The `preprocess_input` of a network: RGB images in 0 to 255, [..., height, width, 3], to float32."""
    preprocess_input = inspect.getmodule(application_of(model)).preprocess_input

    def normalize(images):
        images = keras.ops.cast(images, "float32")
        return preprocess_input(images, data_format="channels_last")

    return normalize


def build(model, *, input_shape, num_classes, pretrained_weights="none"):
    """A network of Keras Applications up to its last features, pooled, then logits; fused batch normalization.

    Args:
      model: "resnet50" or "keras:NAME".
      input_shape: (height, width, 3).
      num_classes: of the logits, whose layer is new.
      pretrained_weights: "none", "imagenet", or a file of weights without the top, as Keras offers and saves them.

    Returns:
      a functional model, float images [batch, height, width, 3] to float32 logits [batch, classes].

    Raises:
      UserError: weights that cannot be had or do not fit, or images it cannot take.
    """
    function = application_of(model)
    if input_shape[2] != 3:
        raise UserError(f"--model={model} takes images of 3 channels, and these have {input_shape[2]}: take another "
                        "--model.")
    if pretrained_weights not in ("none", "imagenet") and not os.path.isfile(pretrained_weights):
        raise UserError(f"--pretrained_weights={pretrained_weights}: there is no such file; name one, imagenet or none.")
    try:
        base = function(include_top=False, weights=None, input_shape=input_shape)
    except ValueError as error:
        raise UserError(f"--model={model} cannot take images of {' x '.join(map(str, input_shape))} (height x width x "
                        f"channels): {' '.join(str(error).split())} Set --image_size or --crop_size.") from error
    if pretrained_weights == "imagenet":
        try:
            base = function(include_top=False, weights="imagenet", input_shape=input_shape)
        except Exception as error:  # of the network, of its proxy, of a file that is damaged
            raise UserError(missing_weights(model, error)) from error
    elif pretrained_weights != "none":
        try:
            base.load_weights(pretrained_weights)
        except Exception as error:  # h5py and Keras have many
            raise UserError(f"--pretrained_weights={pretrained_weights} does not fit --model={model} without its top "
                            f"({' '.join(str(error).split())[:200]}).") from error
    return fuse_batch_norm(classifier(base.input, base.output, num_classes, name=model.removeprefix("keras:")))


def missing_weights(model, error):
    """One line: what failed, where the weights would go."""
    directory = os.path.join(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"), "models")
    url = re.search(r"https?://[^\s:]+/([^\s:/]+)", str(error))
    why = " ".join((str(error).partition(": None -- ")[2] or str(error)).split())
    what = f"download {url.group(0)} to {os.path.join(directory, url.group(1))}" if url else (
        "put them there")
    return (f"--pretrained_weights=imagenet: the weights of --model={model} are not in {directory} and cannot be fetched "
            f"({why}); {what}, or take --pretrained_weights=FILE or none.")
