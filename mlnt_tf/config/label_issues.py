"""Settings of label issues, in every run and in `python -m mlnt_tf.check --label_issues`."""

import dataclasses

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import PathFormat, Section, setting


@dataclasses.dataclass(frozen=True)
class IssueScoreSettings(Section):
    """Label issues at the end of a run"""

    issue_scores: str = setting(
        "auto", "What judges the labels at the end: a linear probe on features of a pretrained "
        "network (probe), or predictions and features of the exported network (network). auto "
        "means probe for color images of at least 64 x 64 pixels.",
        choices=("auto", "probe", "network"))


@dataclasses.dataclass(frozen=True)
class LabelIssueSettings(Section):
    """Label issues, without training a network (check only)"""

    label_issues: bool = setting(
        False, "Score every given label with features of a pretrained network, and write "
        "label_issues.csv to --output_dir.")
    features: str = setting(
        "", "A .npy file with your own features, one row per image of the training split in its "
        "order, instead of those of EfficientNet-Lite0.", path=PathFormat())
    pred_probs: str = setting(
        "", "A .npy file with your own predicted probabilities, one row per image of the training "
        "split in its order and one column per class, instead of those of the probe.",
        path=PathFormat())

    def check(self):
        for name in ("features", "pred_probs"):
            path = getattr(self, name)
            if path and not self.label_issues:
                raise UserError(f"--{name}={path} is read by --label_issues only. Add "
                                "--label_issues.")
