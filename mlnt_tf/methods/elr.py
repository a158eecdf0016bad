"""ELR: early-learning regularization (Liu, Niles-Weed, Razavian, Fernandez-Granda, NeurIPS 2020)."""

import tensorflow as tf

from mlnt_tf import losses
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.stage import Outcome

CLIP = 1e-4  # the authors' bound of the probabilities, so that the logarithm is finite


class ELR(CrossEntropy):
    """Cross entropy, and a pull toward what the network predicted of each example before (eq. 6 to 8 there).

    L = Lc + strength / k sum log(1 - <p, t>), with t <- beta t + (1 - beta) p for the examples of the batch, before.

    Args:
      network: as of `CrossEntropy`.
      num_examples: n; the targets t, float32 [n, classes], begin at 0 and are among the variables.
      strength: lambda; 0 is cross entropy, bit for bit. Published for CIFAR-10: 3.
      beta: of the average, in [0, 1). Published for CIFAR-10: 0.7.

    A batch also has "position", int32 [batch]: the row of each example.
    """

    def __init__(self, network, *, num_examples, strength=3.0, beta=0.7, **kwargs):
        super().__init__(network, **kwargs)
        self.strength, self.beta = strength, beta
        self.averages = self.add_table(num_examples, network.output_shape[-1], name="averages")

    def batch_loss(self, batch, logits):
        loss = losses.cross_entropy(batch["label"], logits)
        probabilities = tf.clip_by_value(tf.nn.softmax(tf.cast(logits, tf.float32)), CLIP, 1 - CLIP)
        predicted = tf.stop_gradient(probabilities / tf.reduce_sum(probabilities, axis=1, keepdims=True))
        targets = self.beta * self.rows(self.averages, batch) + (1 - self.beta) * predicted
        self.write_rows(self.averages, batch, targets)
        if not self.strength:
            return loss
        agreement = tf.reduce_sum(probabilities * targets, axis=1)
        return loss + self.strength * tf.reduce_mean(tf.math.log(1 - agreement))


def train(run):
    config, stage = run.config, run.stage("elr")
    stage.train(lambda network: ELR(network, num_examples=len(run.examples.train), strength=config.elr_lambda,
                                    beta=config.elr_beta))
    return Outcome(stage, "student")
