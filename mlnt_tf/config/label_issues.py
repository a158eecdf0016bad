"""Settings of `python -m mlnt_tf.check --label_issues`."""

import dataclasses

from mlnt_tf.config.errors import UserError
from mlnt_tf.config.settings import PathFormat, Section, setting


@dataclasses.dataclass(frozen=True)
class LabelIssueSettings(Section):
    """Label issues, without training a network (check only)"""

    label_issues: bool = setting(
        False, "Score every given label with features of a pretrained network, and write "
        "label_issues.csv to --output_dir.")
    features: str = setting(
        "", "A .npy file with your own features, one row per image of the training split in its "
        "order, instead of those of EfficientNet-Lite0.", path=PathFormat())

    def check(self):
        if self.features and not self.label_issues:
            raise UserError(f"--features={self.features} is read by --label_issues only. Add "
                            "--label_issues.")
