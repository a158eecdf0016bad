"""Targets of the classification loss: labels or class probabilities, weights, and a selection."""

import dataclasses

import numpy as np

from mlnt_tf.config import UserError


@dataclasses.dataclass(frozen=True)
class Targets:
    """Targets of the training split's n examples, in the order of its rows.

    Attributes:
      labels: int32 [n]. The training accuracy is measured against them.
      probabilities: float32 [n, classes], soft labels that the loss uses instead of `labels`, or
        None.
      weights: float32 [n], the factor of each example's loss, or None for 1.
      selected: bool [n], the examples to train on, or None for all.
      selected_by: str, the flag that made the selection, for the error message.

    Raises:
      UserError: no example is selected.
      ValueError: the lengths differ.
    """

    labels: np.ndarray
    probabilities: np.ndarray = None
    weights: np.ndarray = None
    selected: np.ndarray = None
    selected_by: str = "selected"

    def __post_init__(self):
        lengths = {name: len(column) for name, column in self.columns().items()}
        if self.selected is not None:
            lengths["selected"] = len(self.selected)
        if len(set(lengths.values())) > 1:
            raise ValueError("Every column of the targets needs one row per example. Received: "
                             f"{lengths}")
        if self.selected is not None and not self.selected.any():
            raise UserError(f"{self.selected_by} keeps none of the {len(self.labels)} training "
                            "examples. Choose another value, or a --min_per_class above 0, and "
                            "another --output_dir.")

    @classmethod
    def given(cls, split):
        """Returns the given labels of a split: every example, with weight 1."""
        return cls(split.labels)

    def balanced(self):
        """Returns the targets with each weight divided by the frequency of the example's label.

        The new factors are n / (classes * count of the class), counted over the n selected examples
        and the classes that occur among them. Every class then has the same total weight, and the
        mean factor of the selected examples is 1.
        """
        selected = np.ones(len(self.labels), bool) if self.selected is None else self.selected
        counts = np.bincount(self.labels[selected], minlength=self.labels.max() + 1)
        total = selected.sum() / np.count_nonzero(counts)
        factors = np.divide(total, counts, out=np.zeros(len(counts)), where=counts > 0)
        weights = factors[self.labels].astype(np.float32)
        if self.weights is not None:
            weights *= self.weights
        return dataclasses.replace(self, weights=weights)

    def columns(self):
        """Returns the arrays that become columns of a batch, without those that are None.

        Returns:
          dict with the keys "label", "probabilities" and "weight".
        """
        columns = {"label": self.labels, "probabilities": self.probabilities,
                   "weight": self.weights}
        return {name: column for name, column in columns.items() if column is not None}
