"""Features of the pretrained body: computed once per run, for the probe and for a frozen body."""

import dataclasses
import functools
import warnings

import keras
import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data.images.features import FeatureImages
from mlnt_tf.data.load import Examples
from mlnt_tf.data.transforms import FeatureInput
from mlnt_tf.experiment.head import new_head, replace_head
from mlnt_tf.files import artifacts
from mlnt_tf.labels.probe import fit_cross_entropy_probe, fit_probe, fit_projection
from mlnt_tf.models import predict
from mlnt_tf.models.submodels import feature_extractor, mirror_averaged

EXCLUDED = -1e4  # A logit that gives a class probability 0.
SPLITS = ("train", "validation", "test")


def body_features(run, extractor):
    """Computes the features of every image, or reads them from the run's directory.

    Images are not augmented. Large files are memory-mapped.

    Args:
      run: the `Run`.
      extractor: Keras model from preprocessed images to features, on every device.

    Returns:
      dict of split name to float32 [n, features].
    """
    directory = run.path / "features"
    directory.mkdir(exist_ok=True)
    features = {}
    for name in SPLITS:
        split = getattr(run.images, name)

        def compute(scratch, split=split, name=name):
            logging.info("%s: features of %d images", name, len(split))
            batches = run.images.batches(split, run.config, multiple=run.devices.replicas)
            predict.write_outputs(extractor, batches, scratch, count=len(split),
                                  task=f"{name}: features")
            return None, {}  # The scratch file holds the features already.

        inputs = artifacts.digest_of(run.inputs, name, split.ids)
        features[name], _ = artifacts.load_or_compute(directory / f"{name}.npy", compute,
                                                      inputs=inputs)
    return features


@dataclasses.dataclass(frozen=True)
class FrozenExamples(Examples):
    """Examples whose images are the features of a frozen body. The networks are heads.

    Attributes:
      body: Keras model from preprocessed images to float32 features [batch, features].
    """

    body: keras.Model = None

    @functools.cached_property
    def projection(self):
        """The `Projection` of the training features, which all heads share."""
        return fit_projection(self.train.images.array)

    def new_network(self, config):
        return new_head(self.projection, len(self.class_names), seed=config.seed)

    def complete(self, network):
        return keras.Model(self.body.inputs[0], network(self.body.outputs[0]))


def freeze_body(run):
    """Returns the examples of a run with features in place of images.

    Args:
      run: the `Run`. Its `images` have been loaded.

    Returns:
      `FrozenExamples`.
    """
    config = run.config
    with run.devices.scope():
        network = run.images.new_network(config)
        body = feature_extractor(network)
        if config.flip_average:
            body = mirror_averaged(body)
    features = body_features(run, body)
    splits = {name: dataclasses.replace(getattr(run.images, name), images=FeatureImages(rows))
              for name, rows in features.items()}
    width = features["train"].shape[1]
    return FrozenExamples(**{**vars(run.images), **splits, "preprocess": FeatureInput(width)},
                          body=body)


def initial_features(run):
    """Returns the features of the network's initial weights; see `body_features`."""
    with run.devices.scope():
        network = run.images.new_network(run.config)
        return body_features(run, feature_extractor(network))


def fit_run_probe(run):
    """Returns the noise-corrected `Probe` of a run, on features of the network's initial weights.

    Raises:
      UserError: there are too few images, or only one class.
    """
    return _fit(run, fit_probe)


def train_probe_stages(run):
    """Adds a stage for the probe, and one for the same head fitted by cross entropy, to a run.

    They cost seconds, and are candidates of --select=auto.

    Args:
      run: the `Run`.
    """
    for name, fit in (("cross entropy probe", fit_cross_entropy_probe), ("probe", fit_probe)):
        stage = run.stage(name)
        if stage.result is None:
            probe = run.probe if fit is fit_probe else _fit(run, fit)
            stage.directory.mkdir(exist_ok=True)
            with run.devices.scope():
                network = replace_head(run.examples.new_network(run.config), probe)
            stage.save_network(network, "student")
            stage.finish(_measure(run, probe))
            logging.info("%s: validation accuracy %.3f, test accuracy %.3f", name,
                         stage.result["student"]["best_validation"],
                         stage.result["student"]["test_at_best"])


def check_frozen_body(config):
    """Raises UserError unless the run trains heads on a frozen body."""
    if config.freeze != "body":
        raise UserError(f"--method={config.method} classifies the features of a frozen network, "
                        f"but --freeze={config.freeze}. Add --freeze=body, and a network with "
                        "--pretrained_weights.")


def train_linear_stage(run, name, classifier):
    """Adds a stage whose head is a linear classifier of scikit-learn.

    Its inputs are those of the other heads: projected features with rows of the same norm.

    Args:
      run: the `Run`, with --freeze=body.
      name: str, the stage's name.
      classifier: an estimator that learns `coef_` and `intercept_`.

    Raises:
      UserError: the classifier cannot be fitted.
    """
    stage = run.stage(name)
    if stage.result is not None:
        return
    train, projection = run.examples.train, run.examples.projection
    inputs = projection.inputs(train.images.array)
    try:
        with warnings.catch_warnings():
            # LDA warns about classes of a single image, which shrinkage handles.
            warnings.simplefilter("ignore")
            classifier.fit(inputs, train.labels)
    except ValueError as error:
        raise UserError(f"--method={run.config.method} cannot be fitted to the {len(train)} "
                        f"training images ({error}). Choose another method.") from error
    if np.max(getattr(classifier, "n_iter_", 0)) >= getattr(classifier, "max_iter", np.inf):
        logging.warning("--method=%s has not converged in %d iterations. Lower --logistic_c.",
                        run.config.method, classifier.max_iter)
    weights, bias = linear_weights(classifier, len(run.examples.class_names))
    stage.directory.mkdir(exist_ok=True)
    with run.devices.scope():
        head = run.examples.new_network(run.config)
    head.get_layer("logits").set_weights([weights, bias])
    stage.save_network(head, "student")
    accuracies = {}
    for split in ("validation", "test"):
        rows = getattr(run.examples, split)
        batches = run.examples.batches(rows, run.config, multiple=run.devices.replicas)
        accuracies[split] = predict.accuracy(head, batches, rows.labels)
    stage.finish(_result_of_one_epoch(**accuracies))


def linear_weights(classifier, num_classes):
    """Returns the weights [features, classes] and the bias [classes] of a linear classifier.

    Two classes have a single column of weights in scikit-learn, for the second class. A class
    without training examples gets a bias that excludes it.

    Args:
      classifier: a fitted estimator with `coef_`, `intercept_` and `classes_`.
      num_classes: int.
    """
    coefficients, intercept = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2 and len(coefficients) == 1:
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.array([0.0, intercept[0]])
    weights = np.zeros([coefficients.shape[1], num_classes], np.float32)
    bias = np.full([num_classes], EXCLUDED, np.float32)
    weights[:, classifier.classes_] = coefficients.T
    bias[classifier.classes_] = intercept
    return weights, bias


def _fit(run, fit):
    train = run.images.train
    try:
        return fit(run.features["train"], train.labels, len(run.images.class_names),
                   seed=run.config.seed)
    except ValueError as error:
        raise UserError(f"--initial_head=probe cannot be fitted to the {len(train)} training "
                        f"images ({error}). Use --initial_head=random.") from error


def _measure(run, probe):
    """Returns the result of a stage (see `Stage.measure`) for a fitted probe."""
    accuracies = {}
    for name in ("validation", "test"):
        predicted = probe.probabilities(run.features[name]).argmax(axis=1)
        accuracies[name] = float(np.mean(predicted == getattr(run.images, name).labels))
    return _result_of_one_epoch(**accuracies)


def _result_of_one_epoch(*, validation, test):
    """Returns the result of a stage that takes seconds, from its two accuracies."""
    return {"takes_seconds": True, "validation": {"student": [validation]},
            "student": {"best_validation": validation, "last_validation": validation,
                        "best_epoch": 1, "test_at_best": test, "test_last": test}}
