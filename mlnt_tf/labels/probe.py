"""The noise-corrected probe: a linear head on features of a pretrained network. Pure NumPy.

Cross entropy on noisy labels learns the confusions of those who labeled the images. The probe fits
a first head by cross entropy and estimates the transition matrix T from its predictions. Two fresh
heads with the forward loss (Patrini et al. 2017) follow, each with T estimated from the last head.
"""

import dataclasses

import numpy as np
import scipy.linalg
from scipy.special import softmax

from mlnt_tf.labels import confusion
from mlnt_tf.labels.validation import check_features, check_labels

ROW_NORM = 12.0
EPOCHS = 15
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
INITIAL_DEVIATION = 0.01
EMA_DECAY = 0.99
CROSS_ENTROPY_RATE = 0.01
FORWARD_RATE = 0.02  # The forward loss has smaller gradients: T spreads a label over the classes.
FORWARD_FITS = 2
CHUNK = 65_536  # Rows that are standardized at once. This takes 1 GB for 1,280 features.


@dataclasses.dataclass(frozen=True)
class Projection:
    """Standardization and principal components of the training features.

    Attributes:
      mean, deviation: float32 [features]. The deviation of a constant feature is 1.
      components: float32 [features, components], orthonormal columns.
    """

    mean: np.ndarray
    deviation: np.ndarray
    components: np.ndarray

    def standardize(self, features):
        """Returns float32 [n, features], scaled to mean 0 and deviation 1 on the training set."""
        return (check_features(features) - self.mean) / self.deviation

    def project(self, standardized):
        """Returns float32 [n, components], rows scaled to norm 12; a row of zeros stays zero."""
        projected = standardized @ self.components
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        return projected * (ROW_NORM / np.where(norms > 0, norms, 1))

    def inputs(self, features):
        """Returns the head's input, float32 [n, components], for features that may be on disk."""
        features = check_features(features)
        return np.concatenate([self.project(self.standardize(chunk))
                               for chunk in _chunks(features)])


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear head and the projection of its input.

    Attributes:
      projection: Projection.
      weights: float32 [components + 1, classes], the last row is the bias.
      transition_matrix: float64 [classes, classes], the T of the forward loss in the last fit, rows
        are true classes. The identity for a head fitted by cross entropy.
    """

    projection: Projection
    weights: np.ndarray
    transition_matrix: np.ndarray

    def probabilities(self, features):
        """Returns p(true label), float32 [n, classes].

        Args:
          features: [n, features], of training images or others.
        """
        return head_probabilities(_with_bias(self.projection.inputs(features)), self.weights)


def fit_probe(features, labels, num_classes, *, seed=0, projection=None):
    """Fits the noise-corrected probe.

    Args:
      features: [n, features], computed in evaluation mode from images without augmentation.
      labels: int [n], given labels.
      num_classes: int, at least 2. Labels may lack some of the classes.
      seed: int. Equal seeds give equal weights.
      projection: Projection of the same features, computed by `fit_projection` if None.

    Returns:
      Probe. Its probabilities may be used in sample.

    Raises:
      ValueError: the features or labels are invalid.
    """
    projection, inputs, labels = _prepare(features, labels, num_classes, projection)
    generator = np.random.default_rng(seed)
    matrix = np.eye(num_classes)
    weights = fit_head(inputs, labels, matrix, rate=CROSS_ENTROPY_RATE, generator=generator)
    for _ in range(FORWARD_FITS):
        probabilities = head_probabilities(inputs, weights)
        matrix = confusion.estimate_by_confident_joint(labels, probabilities)
        weights = fit_head(inputs, labels, matrix, rate=FORWARD_RATE, generator=generator)
    return Probe(projection, weights, matrix)


def fit_cross_entropy_probe(features, labels, num_classes, *, seed=0, projection=None):
    """Fits the same head by plain cross entropy: the baseline, and the first stage of `fit_probe`.

    Args, returns and errors are those of `fit_probe`.
    """
    projection, inputs, labels = _prepare(features, labels, num_classes, projection)
    matrix = np.eye(num_classes)
    generator = np.random.default_rng(seed)
    weights = fit_head(inputs, labels, matrix, rate=CROSS_ENTROPY_RATE, generator=generator)
    return Probe(projection, weights, matrix)


def fit_projection(features):
    """Returns the Projection to clip(n / 16, 32, 256) principal components, without whitening.

    There are never more components than features or images.

    Args:
      features: [n, features].
    """
    features = check_features(features)
    count, size = features.shape
    exact_mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in _chunks(features)) / count
    squares = sum(((chunk - exact_mean)**2).sum(axis=0) for chunk in _chunks(features))
    mean, deviation = exact_mean.astype(np.float32), np.sqrt(squares / count).astype(np.float32)
    deviation[deviation == 0] = 1
    num_components = min(int(np.clip(count // 16, 32, 256)), size, count)
    covariance = np.zeros([size, size], np.float32)
    for chunk in _chunks(features):
        standardized = (chunk - mean) / deviation
        covariance += standardized.T @ standardized
    covariance /= count
    _, components = scipy.linalg.eigh(covariance, subset_by_index=[size - num_components, size - 1])
    components = components[:, ::-1]
    # An eigenvector's sign is arbitrary. Fix it, so that the result does not depend on the library.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(num_components)])
    return Projection(mean, deviation, np.ascontiguousarray(components, np.float32))


def fit_head(inputs, labels, matrix, *, rate, generator):
    """Minimizes the forward loss −log Σ_t p_t T[t, given] by SGD, and averages the weights.

    SGD has momentum and coupled weight decay, as PyTorch's. The learning rate falls to 0 by a
    cosine. The identity as T gives cross entropy.

    Args:
      inputs: float32 [n, components + 1], the last column is 1.
      labels: int64 [n].
      matrix: float [classes, classes], T.
      rate: float, the initial learning rate.
      generator: np.random.Generator of the initial weights and the order of the images.

    Returns:
      float32 [components + 1, classes], the EMA of the weights.
    """
    count, size = inputs.shape
    batch = min(int(np.clip(count // 30, 32, 128)), count)
    steps_per_epoch = count // batch  # A small last batch would be a noisy step at the full rate.
    total = EPOCHS * steps_per_epoch
    with np.errstate(divide="ignore"):
        log_columns = np.log(matrix).T.astype(np.float32)  # [given, true]
    weights = generator.normal(0, INITIAL_DEVIATION, [size, len(matrix)]).astype(np.float32)
    weights[-1] = 0
    average, velocity = weights.copy(), np.zeros_like(weights)
    for step in range(total):
        if step % steps_per_epoch == 0:
            order = generator.permutation(count)
        start = step % steps_per_epoch * batch
        chosen = order[start:start + batch]
        batch_inputs = inputs[chosen]
        logit_gradient = forward_gradient(batch_inputs @ weights, log_columns[labels[chosen]])
        gradient = batch_inputs.T @ logit_gradient / batch
        velocity = MOMENTUM * velocity + gradient + WEIGHT_DECAY * weights
        learning_rate = rate * (1 + np.cos(np.pi * step / total)) / 2
        weights = weights - np.float32(learning_rate) * velocity
        decay = np.float32(min(EMA_DECAY, (1 + step) / (10 + step)))
        average = decay * average + (1 - decay) * weights
    return average


def forward_gradient(logits, log_columns):
    """Returns the gradient of each example's forward loss by its logits, [batch, classes].

    The gradient is p minus the posterior of the true label given both image and label, which is
    proportional to p_t T[t, given].

    Args:
      logits: [batch, classes].
      log_columns: [batch, classes], log T[:, given] of each example. Minus infinity is allowed.
    """
    return softmax(logits, axis=1) - softmax(logits + log_columns, axis=1)


def head_probabilities(inputs, weights):
    """Returns softmax(inputs @ weights), [n, classes]."""
    return softmax(inputs @ weights, axis=1)


def _prepare(features, labels, num_classes, projection):
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Received: {num_classes}")
    labels = check_labels(labels, num_classes)
    features = check_features(features, labels)
    projection = projection or fit_projection(features)
    inputs = _with_bias(projection.inputs(features))
    return projection, inputs, labels


def _chunks(features):
    """Returns views of consecutive rows."""
    return [features[start:start + CHUNK] for start in range(0, len(features), CHUNK)]


def _with_bias(inputs):
    return np.concatenate([inputs, np.ones([len(inputs), 1], inputs.dtype)], axis=1)
