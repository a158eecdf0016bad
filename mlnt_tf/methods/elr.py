"""ELR: early-learning regularization (Liu et al., NeurIPS 2020)."""

import keras
import tensorflow as tf

from mlnt_tf.methods.cross_entropy import CrossEntropy

CLIP = 1e-4  # The authors' bound on the probabilities. It keeps the logarithm finite.


def train(run):
    """Trains one stage and exports the student."""
    config = run.config

    def new_model(network):
        return ELR(network, num_examples=len(run.examples.train), strength=config.elr_lambda,
                   beta=config.elr_beta)

    run.stage("elr").train(new_model)


@keras.saving.register_keras_serializable(package="mlnt_tf")
class ELR(CrossEntropy):
    """Cross entropy and a pull toward the network's earlier predictions (eq. 6 to 8 of that paper).

    The loss of an example is Lc + strength * log(1 - <p, t>). Its target t is a moving average of
    its predictions, updated before the loss is computed: t <- beta t + (1 - beta) p.

    A batch also has "position", int32 [batch]: the row of each example in the targets. An example's
    "weight" applies to both terms of its loss, but not to the update of t. With soft labels only Lc
    changes. A mixed image (see `mlnt_tf.data.mixup`) counts as the one with the larger share.

    Args:
      network: as for `CrossEntropy`.
      num_examples: int, n. The targets t, float32 [n, classes], start at 0 and are saved in
        checkpoints.
      strength: float, lambda. 0 is cross entropy, bit for bit. The published value for symmetric
        noise on CIFAR-10 is 3, for asymmetric noise 1.
      beta: float in [0, 1), decay of the moving average. The published value for symmetric noise on
        CIFAR-10 is 0.7, for asymmetric noise 0.9.
    """

    def __init__(self, network, *, num_examples, strength=3.0, beta=0.7, **kwargs):
        super().__init__(network, **kwargs)
        self.num_examples = num_examples
        self.strength = strength
        self.beta = beta
        self.averages = self.add_table(num_examples, network.output_shape[-1], name="averages")

    def per_example_loss(self, batch, logits):
        loss = super().per_example_loss(batch, logits)
        probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
        probabilities = tf.clip_by_value(probabilities, CLIP, 1 - CLIP)
        total = tf.reduce_sum(probabilities, axis=1, keepdims=True)
        predicted = tf.stop_gradient(probabilities / total)
        targets = self.beta * self.rows(self.averages, batch) + (1 - self.beta) * predicted
        self.write_rows(self.averages, batch, targets)
        if not self.strength:
            return loss
        agreement = tf.reduce_sum(probabilities * targets, axis=1)
        return loss + self.strength * tf.math.log(1 - agreement)
