"""GCE: generalized cross entropy (Zhang and Sabuncu, NeurIPS 2018)."""

import keras

from mlnt_tf import losses
from mlnt_tf.methods.cross_entropy import CrossEntropy


def train(run):
    """Trains one stage and exports the student."""
    run.stage("gce").train(lambda network: GCE(network, q=run.config.gce_q))


@keras.saving.register_keras_serializable(package="mlnt_tf")
class GCE(CrossEntropy):
    """A loss between cross entropy (the limit q = 0) and the mean absolute error (q = 1).

    Args:
      network: as for `CrossEntropy`.
      q: float in (0, 1]. The published value is 0.7, with a learning rate of 0.01.
    """

    takes_label_smoothing = False  # It is defined for cross entropy.

    def __init__(self, network, *, q=0.7, **kwargs):
        super().__init__(network, **kwargs)
        self.q = q

    def per_example_loss(self, batch, logits):
        if "probabilities" in batch:
            return losses.soft_generalized_cross_entropy(batch["probabilities"], logits, q=self.q)
        return losses.generalized_cross_entropy(batch["label"], logits, q=self.q)
