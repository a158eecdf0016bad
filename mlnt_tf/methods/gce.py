"""GCE: generalized cross entropy (Zhang & Sabuncu, NeurIPS 2018)."""

from mlnt_tf import losses
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.stage import Outcome


class GCE(CrossEntropy):
    """Cross entropy at q = 0, the mean absolute error at q = 1; the published q is 0.7.

    Args:
      network: as of `CrossEntropy`.
      q: in (0, 1].
    """

    def __init__(self, network, *, q=0.7, **kwargs):
        super().__init__(network, **kwargs)
        self.q = q

    def batch_loss(self, batch, logits):
        return losses.generalized_cross_entropy(batch["label"], logits, q=self.q)


def train(run):
    stage = run.stage("gce")
    stage.train(lambda network: GCE(network, q=run.config.gce_q))
    return Outcome(stage, "student")
