"""Settings of the network."""

import dataclasses

from mlnt_tf.config.errors import UserError
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
    initial_head: str = setting(
        "random", "Head that every stage begins with: random, or probe for the noise-corrected "
        "probe on the features of the pretrained network, which is also a stage of its own.",
        choices=("random", "probe"))
    flip_average: bool = setting(
        False, "With --freeze=body, average the features of each image and its mirror image. This "
        "doubles the cost of the features, in training and in the exported network.")
    width: int = setting(32, "Number of channels in the first stage.", minimum=1)
    freeze: str = setting(
        "none", "Layers that keep their initial weights: none, body (all but the last layer) or "
        "until:LAYER (from the input to the layer of that name). Their batch norm uses its moving "
        "statistics. Dropout stays active.")
    freeze_batch_norm: bool = setting(
        False, "Batch norm of all layers uses its moving statistics in training and does not "
        "update them. Scale and offset are trained, unless --freeze freezes them.")

    def ineffective(self):
        has_fixed_width = (self.model in ("efficientnet_lite0", "resnet50")
                           or self.model.startswith("keras:"))
        return {"width": f"with --model={self.model}"} if has_fixed_width else {}

    def check(self):
        check_name("model", self.model, (*MODELS, "resnet50"), prefix="keras:")
        names_layer = self.freeze.startswith("until:") and self.freeze != "until:"
        if self.freeze not in ("none", "body") and not names_layer:
            raise UserError(f"--freeze={self.freeze} is not known. Choose none, body or "
                            "until:LAYER.")
        if self.freeze == "body" and self.augment:
            raise UserError("--augment changes the images in every epoch, but --freeze=body "
                            "computes their features once. Omit one of them.")
        if self.freeze == "body" and self.initial_head == "probe":
            raise UserError("--initial_head=probe is for a network that is fine-tuned, but "
                            "--freeze=body trains heads only. Omit one of them.")
        if self.flip_average and self.freeze != "body":
            raise UserError(f"--flip_average needs --freeze=body, but --freeze={self.freeze}. "
                            "Change one of them.")
        if self.sync_batch_norm and (self.freeze_batch_norm or self.freeze == "body"):
            flag = "--freeze_batch_norm" if self.freeze_batch_norm else "--freeze=body"
            raise UserError(f"--sync_batch_norm has no effect with {flag}, which leaves no batch "
                            "statistics to synchronize. Omit one of them.")
