"""The losses, each a mean over the batch, in float32."""

import tensorflow as tf


def cross_entropy(labels, logits):
    """Lc: mean cross entropy.

    Args:
      labels: int [batch].
      logits: [batch, classes].

    Returns:
      float32 scalar.
    """
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def cross_entropy_cotangent(labels, probabilities):
    """d Lc / d logits = (softmax - one_hot(labels)) / batch: what a backward pass of `cross_entropy` starts from.

    Args:
      labels: int [batch].
      probabilities: float32 [batch, classes], softmax of the logits.

    Returns:
      float32 [batch, classes].
    """
    batch, classes = tf.shape(probabilities)[0], probabilities.shape[-1]
    return (probabilities - tf.one_hot(labels, classes)) / tf.cast(batch, tf.float32)


def kl_consistency(targets, logits):
    """J: KL(targets || softmax(logits)), summed over classes, averaged over the batch (paper eq. 4, 11).

    Args:
      targets: float32 [batch, classes], probabilities; a zero contributes nothing.
      logits: [batch, classes].

    Returns:
      float32 scalar.
    """
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    entropy_terms = tf.math.xlogy(targets, targets)
    return tf.reduce_mean(tf.reduce_sum(entropy_terms - targets * log_probabilities, axis=-1))


def merge_targets(teacher, mentor, teacher_weight):
    """s = lambda * teacher + (1 - lambda) * mentor (paper eq. 12); all [batch, classes]."""
    return teacher_weight * teacher + (1.0 - teacher_weight) * mentor


def generalized_cross_entropy(labels, logits, *, q):
    """Mean of (1 - p^q) / q, p the probability of the label (Zhang & Sabuncu 2018, eq. 6); q above 0.

    Args:
      labels: int [batch].
      logits: [batch, classes].

    Returns:
      float32 scalar.
    """
    logits = tf.cast(logits, tf.float32)
    surprise = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)  # -log p
    return tf.reduce_mean(-tf.math.expm1(-q * surprise) / q)


def forward_cross_entropy(labels, logits, matrix):
    """Mean of -log (p T)[label], p the softmax (Patrini et al. 2017, forward correction).

    Written as cross entropy minus log sum_i T[i, label] p_i / p_label, so that T = I gives cross entropy bit for bit.

    Args:
      labels: int [batch], given.
      logits: [batch, classes], of the true label.
      matrix: [classes, classes], T: p(given | true), a row for each true class; no label's column is all zero.

    Returns:
      float32 scalar.
    """
    logits = tf.cast(logits, tf.float32)
    columns = tf.gather(tf.math.log(tf.cast(matrix, tf.float32)), labels, axis=1)  # log T[i, label], [classes, batch]
    apart = tf.identity(logits)  # where T = I its gradients cancel before they meet that of the cross entropy
    ratios = apart - tf.gather(apart, labels, axis=1, batch_dims=1)[:, None]  # log p_i / p_label
    return cross_entropy(labels, logits) - tf.reduce_mean(tf.reduce_logsumexp(tf.transpose(columns) + ratios, axis=1))
