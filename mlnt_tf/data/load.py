"""Loads the data of a run: from --dataset to splits with label noise and held-out examples."""

import dataclasses

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.config.data import CroppedSize
from mlnt_tf.data import noise, pipeline, splits, transforms
from mlnt_tf.data.sources import load_source
from mlnt_tf.models import build
from mlnt_tf.models.normalization import SCALINGS, Scaling
from mlnt_tf.models.submodels import freeze_layers


@dataclasses.dataclass(frozen=True)
class Examples:
    """The data of a run: three splits, and how their images become the network's input.

    The labels of each split are those that the run uses: the given labels for training, and for
    validation and test those that accuracy is measured against. `Split.true_labels` holds the true
    labels, where they are known.

    Attributes:
      train: `Split`, with given labels.
      validation: `Split`, with true or given labels as --validation_labels asks.
      test: `Split`, with true labels where they are known.
      class_names: tuple of str [classes], in the order of the labels.
      bad_images: tuple of (record, reason), the images that cannot be decoded and are left out.
      preprocess: `Preprocess`, from stored images to float32 [batch, height, width, channels].
      steps_per_epoch: int, the number of training batches in an epoch.
      injected_matrix: float64 [classes, classes], the transition matrix p(given | true) of the
        injected noise. None if no noise was injected, or if the data set has noise of its own.
      unlabeled: `Split` of images without a label, which are only scored, or None.
      given: dict of split name to `Split`, the same images with their given labels and with ids
        that are unique over all splits; see `given_splits`.
    """

    train: splits.Split
    validation: splits.Split
    test: splits.Split
    class_names: tuple
    bad_images: tuple
    preprocess: transforms.Preprocess
    steps_per_epoch: int
    injected_matrix: np.ndarray = None
    unlabeled: splits.Split = None
    given: dict = None

    @property
    def realized_rate(self):
        """The fraction of training labels that are wrong, or None if no true label is known."""
        return noise.realized_rate(self.train.true_labels, self.train.labels)

    @property
    def label_kinds(self):
        """Which labels accuracy is measured against: {"validation": str, "test": str}."""
        return {"validation": _describe_labels(self.validation),
                "test": _describe_labels(self.test)}

    def new_network(self, config):
        """Returns the network with its initial weights, which are the same for every call.

        The layers that --freeze names are frozen.
        """
        network = build.build_network(
            config.model, width=config.width, input_shape=self.preprocess.shape,
            num_classes=len(self.class_names), seed=config.seed,
            pretrained_weights=config.pretrained_weights)
        return freeze_layers(network, config.freeze, batch_norm=config.freeze_batch_norm)

    def complete(self, network):
        """Returns a network of these examples as one from preprocessed images to logits."""
        return network

    def batches(self, split, config, *, multiple=1):
        """Returns a split in order and without augmentation; see `evaluation_batches`."""
        return pipeline.evaluation_batches(
            split, self.preprocess, batch_size=config.batch_size, multiple=multiple)


def load_examples(config):
    """Returns the `Examples` of the data set that --dataset names; see `build_examples`.

    Raises:
      UserError: the data are missing, cannot be read or do not fit the settings.
    """
    return build_examples(load_source(config), config)


def build_examples(source, config):
    """Injects label noise, holds out validation examples and limits the training split.

    Logs the fraction of wrong labels, and warns about classes without training examples.

    Args:
      source: `Source`.
      config: `Config`.

    Returns:
      `Examples`.

    Raises:
      UserError: there are too few examples for the settings, or the noise's matrix cannot be read.
    """
    matrix = None
    if config.noise_source.is_injected:
        matrix = noise.transition_matrix(
            config.noise_source, config.noise_rate, len(source.class_names), dataset=config.dataset,
            symmetric_includes_true=config.symmetric_includes_true)
    train, validation = _split_with_noise(source, matrix, config)
    train = splits.subset(train, config.train_examples, seed=config.seed)
    given = given_splits(source, train, validation)
    steps_per_epoch = config.steps_per_epoch or len(train) // config.batch_size
    _check_sizes(config, len(train), steps_per_epoch)
    if config.validation_labels == "clean":
        validation = validation.with_true_labels()
    examples = Examples(
        train=train, validation=validation, test=source.test.with_true_labels(),
        class_names=source.class_names, bad_images=source.bad_images,
        preprocess=build_preprocess(config, train.images), steps_per_epoch=steps_per_epoch,
        injected_matrix=matrix if source_is_clean(source.train) else None,
        unlabeled=source.unlabeled, given=given)
    _warn_of_missing_classes(examples)
    _warn_of_shared_images(examples)
    _log_summary(examples, config)
    return examples


def given_splits(source, train, validation=None):
    """Returns {name: Split} with the given labels and with ids that are unique over all splits.

    The ids of training examples stay, because noise depends on them. Those of a split that the
    source provides are moved behind them if they overlap.

    Args:
      source: `Source`.
      train: `Split`, some or all training examples of the source with their given labels.
      validation: `Split` with given labels, held out of the training examples or provided by the
        source. None or an empty one is left out.
    """
    named = {"train": train}
    used = source.train.ids
    for name, split in {"validation": validation, "test": source.test}.items():
        if split is None or not len(split):
            continue
        if name == "test" or source.validation is not None:
            if np.isin(split.ids, used).any():
                moved = split.ids + used.max() + 1 - split.ids.min()
                split = dataclasses.replace(split, ids=moved)
            used = np.concatenate([used, split.ids])
        named[name] = split
    return named


def _split_with_noise(source, matrix, config):
    """Returns the training and validation splits, with noise injected into their labels.

    Noise is injected before examples are held out, so the noise of an example does not depend on
    --validation_fraction.
    """
    train = inject_noise(source.train, matrix, config)
    if source.validation is None:
        train, validation = splits.hold_out_known_first(
            train, fraction=config.validation_fraction, seed=config.seed)
        num_known = int((validation.true_labels >= 0).sum())
        if 0 < num_known and (train.true_labels < 0).any():
            logging.info("Of the %d validation examples, %d have a known true label. Such examples "
                         "are held out first, and not trained on. Lower --validation_fraction to "
                         "train on more of them.", len(validation), num_known)
        return train, validation
    validation = inject_noise(
        source.validation, matrix, config, salt=noise.VALIDATION_NOISE_SALT)
    return train, validation


def _check_sizes(config, num_examples, steps_per_epoch):
    """Raises UserError if there are too few training examples for the settings."""
    if config.batch_size > num_examples:
        raise UserError(f"--batch_size={config.batch_size} is larger than the training split of "
                        f"{num_examples} examples. Lower it.")
    if config.has_meta_loss and config.num_neighbors >= num_examples:
        raise UserError(f"--num_neighbors={config.num_neighbors} must be smaller than the training "
                        f"split of {num_examples} examples. Lower it.")
    if steps_per_epoch % config.steps_per_execution:
        raise UserError(f"--steps_per_execution={config.steps_per_execution} must divide the "
                        f"{steps_per_epoch} steps of an epoch. Change it or --steps_per_epoch.")


def _warn_of_missing_classes(examples):
    counts = np.bincount(examples.train.labels, minlength=len(examples.class_names))
    missing = [name for name, count in zip(examples.class_names, counts) if not count]
    if missing:
        logging.warning("No training example has the class %s.", ", ".join(missing))


def _warn_of_shared_images(examples):
    """Warns about validation and test examples whose image or group is also in train."""
    for name in ("validation", "test"):
        split, train = getattr(examples, name), examples.train
        shared = np.zeros(len(split), bool)
        if split.digests is not None and train.digests is not None:
            shared |= np.isin(split.digests, train.digests)
        if split.groups is not None and train.groups is not None:
            shared |= np.isin(split.groups, train.groups[train.groups >= 0])
        if shared.any():
            logging.warning("%d images of %s, or others of their group, are also in train, such as "
                            "%s. Its accuracy is too good: correct the splits.", shared.sum(), name,
                            splits.record_text(split.records[shared.argmax()]))


def _log_summary(examples, config):
    """Logs the size of each split and the kind of its labels."""
    rate = examples.realized_rate
    wrong = "an unknown fraction" if rate is None else f"{100 * rate:.1f} %"
    logging.info(
        "%s: %d training examples (%s of the labels are wrong, --noise=%s), %d validation examples "
        "(%s), %d test examples (%s)", config.dataset, len(examples.train), wrong, config.noise,
        len(examples.validation), _describe_labels(examples.validation), len(examples.test),
        _describe_labels(examples.test))


def _describe_labels(split):
    """Returns the kind of labels that accuracy on a split is measured against."""
    unknown = split.true_labels < 0
    if unknown.all():
        return "given labels, which may be wrong"
    if (split.labels != split.true_labels)[~unknown].any():
        return "given labels, some of which are known to be wrong"
    if unknown.any():
        return f"true labels where known ({(~unknown).sum()} of {len(split)}), else given labels"
    return "true labels"


def build_preprocess(config, images):
    """Returns the `Preprocess` of a run.

    Args:
      config: `Config`.
      images: the images of the training split.

    Raises:
      UserError: --crop_size is larger than the images, or --normalization does not fit them.
    """
    stored = images.shape
    if config.crop_size > min(stored[:2]):
        raise UserError(f"--crop_size={config.crop_size} is larger than the images, which have "
                        f"{stored[0]} x {stored[1]} pixels. Lower it, or enlarge the images with "
                        "--image_size.")
    shape = stored
    if config.crop_size:
        shape = (config.crop_size, config.crop_size, stored[2])
    return transforms.Preprocess(stored, shape, build_normalization(config, images, shape),
                                 resized=_resized(config, stored), crop_scale=config.crop_scale)


def _resized(config, stored):
    """Returns the (height, width) to which an image of any size is resized, as in training."""
    size = tuple(stored[:2])
    return CroppedSize(size) if config.keep_aspect_ratio else size


def build_normalization(config, images, shape):
    """Returns the function of images in 0 to 255 that --normalization names.

    The mean image is subtracted per pixel, or per channel if crops shift the pixels.

    Args:
      config: `Config`.
      images: the images of the training split.
      shape: (height, width, channels) of the network's input.

    Raises:
      UserError: the normalization needs another number of channels.
    """
    if config.normalization == "auto":
        normalize = build.normalization(config.model)
    else:
        normalize = SCALINGS.get(config.normalization)
        if config.pretrained_weights != "none":
            logging.warning("--normalization=%s replaces the normalization that the weights of "
                            "--model=%s were trained with.", config.normalization, config.model)
    if normalize is None:
        mean = images.mean_image()
        if shape != images.shape or config.crop_scale < 1:
            mean = mean.mean(axis=(0, 1))
        return transforms.Normalizer(mean)
    if isinstance(normalize, Scaling) and normalize.channels not in (None, shape[2]):
        raise UserError(f"--normalization={config.normalization} needs images with "
                        f"{normalize.channels} channels, but these have {shape[2]}. Set "
                        "--normalization=mean_image or minus_one_to_one.")
    return normalize


def source_is_clean(split):
    """Returns whether no label is known to be wrong, so that injected noise is the only noise."""
    return bool(((split.true_labels < 0) | (split.true_labels == split.labels)).all())


def inject_noise(split, matrix, config, *, salt=noise.NOISE_SALT):
    """Returns a split with noise injected into its labels.

    Where the true label is unknown, the label before the injection becomes the true label.

    Args:
      split: `Split`.
      matrix: float64 [classes, classes], p(given | true), or None to return the split unchanged.
      config: `Config`.
      salt: int, see `uniform_draws`.
    """
    if matrix is None:
        return split
    given = noise.corrupt_labels(split.labels, split.ids, matrix, seed=config.seed,
                                 sampling=config.noise_sampling, salt=salt)
    return dataclasses.replace(split, labels=given, true_labels=split.with_true_labels().labels)
