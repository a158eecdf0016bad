"""Settings of the network."""

import dataclasses

from mlnt_tf.config.settings import PathFormat, Section, setting
from mlnt_tf.config.user_functions import check_name

MODELS = ("cnn", "preact_resnet8", "preact_resnet14", "preact_resnet20", "preact_resnet32",
          "efficientnet_lite0")


@dataclasses.dataclass(frozen=True)
class NetworkSettings(Section):
    """Network"""

    model: str = setting(
        "cnn", f"Network: {', '.join(MODELS)}, resnet50, keras:NAME or package.module:function.")
    pretrained_weights: str = setting(
        "none", "Initial weights: none, imagenet (efficientnet_lite0, resnet50 and keras:NAME) or "
        "a file (resnet50 and keras:NAME).", path=PathFormat(words=("none", "imagenet")))
    width: int = setting(32, "Number of channels in the first stage.", minimum=1)

    def check(self):
        check_name("model", self.model, (*MODELS, "resnet50"), prefix="keras:")
