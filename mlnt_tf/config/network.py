"""Settings of the network."""

import dataclasses

from mlnt_tf.config.settings import PathFormat, Section, setting
from mlnt_tf.config.user_functions import check_name

MODELS = ("cnn", "preact_resnet8", "preact_resnet14", "preact_resnet20", "preact_resnet32",
          "efficientnet_lite0")
NORMALIZATIONS = ("auto", "imagenet", "minus_one_to_one", "mean_image", "none")


@dataclasses.dataclass(frozen=True)
class NetworkSettings(Section):
    """Network"""

    model: str = setting(
        "cnn", f"Network: {', '.join(MODELS)}, resnet50, keras:NAME or package.module:function.")
    pretrained_weights: str = setting(
        "none", "Initial weights: none, imagenet (efficientnet_lite0, resnet50 and keras:NAME) or "
        "a file (resnet50 and keras:NAME).", path=PathFormat(words=("none", "imagenet")))
    normalization: str = setting(
        "auto", "Normalization of the images: imagenet (scale to [0, 1], subtract ImageNet's mean, "
        "divide by its standard deviation), minus_one_to_one (scale to [-1, 1]), mean_image (scale "
        "to [0, 1], subtract the mean of the training images) or none (0 to 255). auto is the one "
        "that the published weights of --model expect, or mean_image if it has none.",
        choices=NORMALIZATIONS)
    width: int = setting(32, "Number of channels in the first stage.", minimum=1)

    def check(self):
        check_name("model", self.model, (*MODELS, "resnet50"), prefix="keras:")
