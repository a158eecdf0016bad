"""Per-example losses in float32, and the one function that averages and weights them.

Every loss returns one value per example, `[batch]`. Only `mean_loss` reduces these values to a
scalar, so example weights, class weights and soft labels work with every loss.
"""

import typing

import tensorflow as tf


def mean_loss(per_example, weights=None):
    """Averages per-example losses over the batch: sum_i w_i loss_i / batch.

    The sum is divided by the batch size, not by the sum of the weights, as Keras's
    "sum_over_batch_size" does. The mean over equally large replicas is therefore exact.

    Args:
      per_example: float32 [batch].
      weights: float32 [batch], or None if every example counts the same.

    Returns:
      float32 scalar.
    """
    if weights is not None:
        per_example = weights * per_example
    return tf.reduce_mean(per_example)


def mean_loss_gradient(per_example_gradient):
    """Gradient of `mean_loss` with respect to the logits: each example's gradient / batch.

    Args:
      per_example_gradient: float32 [batch, classes], each example's gradient with respect to its
        own logits.

    Returns:
      float32 [batch, classes].
    """
    batch = tf.shape(per_example_gradient)[0]
    return per_example_gradient / tf.cast(batch, tf.float32)


def cross_entropy(labels, logits):
    """Lc: -log p[label], where p is the softmax of the logits.

    Args:
      labels: int [batch].
      logits: [batch, classes].

    Returns:
      float32 [batch].
    """
    logits = tf.cast(logits, tf.float32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def cross_entropy_gradient(labels, logits):
    """Gradient of `cross_entropy` with respect to the logits: softmax - one_hot(labels).

    Args:
      labels: int [batch].
      logits: [batch, classes].

    Returns:
      float32 [batch, classes].
    """
    probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
    return probabilities - tf.one_hot(labels, probabilities.shape[-1])


def soft_cross_entropy(probabilities, logits):
    """Cross entropy with soft labels: -sum_j y_j log p_j. The labels are treated as constants.

    Args:
      probabilities: float32 [batch, classes], the soft labels y.
      logits: [batch, classes].

    Returns:
      float32 [batch].
    """
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=tf.stop_gradient(probabilities), logits=tf.cast(logits, tf.float32))


def soft_cross_entropy_gradient(probabilities, logits):
    """Gradient of `soft_cross_entropy` with respect to the logits: softmax - probabilities.

    Args:
      probabilities: float32 [batch, classes], rows that sum to 1.
      logits: [batch, classes].

    Returns:
      float32 [batch, classes].
    """
    return tf.nn.softmax(tf.cast(logits, tf.float32)) - probabilities


class InnerLoss(typing.NamedTuple):
    """A loss for MLNT's inner step, together with its gradient in closed form.

    All synthetic label sets of a step share one forward pass. The gradient with respect to the
    logits is where each set's backward pass starts.

    Attributes:
      value: function (labels, logits [batch, classes]) -> float32 [batch]. The labels are those of
        a label set: int32 [batch], or float32 [batch, classes] if they are soft.
      gradient: function (labels, logits [batch, classes]) -> float32 [batch, classes], the gradient
        of each example's loss with respect to its logits.
    """

    value: typing.Callable
    gradient: typing.Callable


CROSS_ENTROPY = InnerLoss(cross_entropy, cross_entropy_gradient)
SOFT_CROSS_ENTROPY = InnerLoss(soft_cross_entropy, soft_cross_entropy_gradient)


def smooth_labels(loss, logits, smoothing):
    """Cross entropy with labels (1 - smoothing) y + smoothing / classes, from that with labels y.

    Args:
      loss: float32 [batch], the cross entropy with labels y, hard or soft.
      logits: [batch, classes].
      smoothing: float in [0, 1).

    Returns:
      float32 [batch].
    """
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return (1.0 - smoothing) * loss - smoothing * tf.reduce_mean(log_probabilities, axis=-1)


def kl_consistency(targets, logits):
    """KL(targets || softmax(logits)), whose mean over the batch is J (paper eq. 4 and 11).

    Args:
      targets: float32 [batch, classes], probabilities. A probability of 0 contributes nothing.
      logits: [batch, classes].

    Returns:
      float32 [batch].
    """
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    entropy_terms = tf.math.xlogy(targets, targets)
    return tf.reduce_sum(entropy_terms - targets * log_probabilities, axis=-1)


def merge_targets(teacher, mentor, teacher_weight):
    """s = lambda * teacher + (1 - lambda) * mentor (paper eq. 12), all [batch, classes]."""
    return teacher_weight * teacher + (1.0 - teacher_weight) * mentor


def generalized_cross_entropy(labels, logits, *, q):
    """(1 - p[label]^q) / q (Zhang and Sabuncu 2018, eq. 6).

    Args:
      labels: int [batch].
      logits: [batch, classes].
      q: float above 0. The limit q = 0 is cross entropy; q = 1 is 1 - p[label].

    Returns:
      float32 [batch].
    """
    negative_log_probability = cross_entropy(labels, logits)
    return -tf.math.expm1(-q * negative_log_probability) / q


def soft_generalized_cross_entropy(probabilities, logits, *, q):
    """sum_j y_j (1 - p_j^q) / q, the mean of `generalized_cross_entropy` over soft labels.

    Args:
      probabilities: float32 [batch, classes], the soft labels y.
      logits: [batch, classes].
      q: float above 0.

    Returns:
      float32 [batch].
    """
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    per_class = -tf.math.expm1(q * log_probabilities) / q
    return tf.reduce_sum(tf.stop_gradient(probabilities) * per_class, axis=-1)


def forward_cross_entropy(labels, logits, matrix):
    """-log (p T)[label], the forward correction of Patrini et al. 2017.

    It is computed as cross entropy minus log sum_i T[i, label] p_i / p[label]. With T = I the
    second term and its gradient are exactly 0, so the loss equals cross entropy bit for bit.

    Args:
      labels: int [batch], the given labels.
      logits: [batch, classes] of the true label.
      matrix: [classes, classes], the transition matrix T: p(given | true), one row per true class.
        No column of a label that occurs may be all zero.

    Returns:
      float32 [batch].
    """
    logits = tf.cast(logits, tf.float32)
    log_matrix = tf.math.log(tf.cast(matrix, tf.float32))
    log_transitions = tf.transpose(tf.gather(log_matrix, labels, axis=1))  # [batch, classes]
    # With T = I the gradients of the second term cancel here, before they could round the
    # gradient of the first.
    separate = tf.identity(logits)
    label_logits = tf.gather(separate, labels, axis=1, batch_dims=1)  # [batch]
    log_ratios = separate - label_logits[:, None]  # log p_i / p[label]
    correction = tf.reduce_logsumexp(log_transitions + log_ratios, axis=1)
    return cross_entropy(labels, logits) - correction
