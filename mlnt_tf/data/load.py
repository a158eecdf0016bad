"""What a run trains, validates and tests on, from --dataset to the network's input."""

import dataclasses

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import noise, pipeline, splits, transforms
from mlnt_tf.data.sources import load_source
from mlnt_tf.models import build
from mlnt_tf.neighbors import scann


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a run trains, validates and tests on: splits whose labels are those it uses, the true ones beside them."""

    train: splits.Split
    validation: splits.Split
    test: splits.Split
    class_names: tuple
    bad_images: tuple  # (record, reason)
    preprocess: transforms.Preprocess
    steps_per_epoch: int
    injected_matrix: np.ndarray = None  # the matrix of our noise, p(given | true), or None where the labels are as they came

    @property
    def realized_rate(self):
        """Share of wrong labels in training, None where no true label is known."""
        return noise.realized_rate(self.train.true_labels, self.train.labels)

    def new_network(self, config):
        """The network at its initial weights, the same each time."""
        return build.build_network(
            config.model, width=config.width, input_shape=self.preprocess.shape, num_classes=len(self.class_names),
            seed=config.seed, pretrained_weights=config.pretrained_weights)

    def batches(self, split, config, *, multiple=1):
        """Un-augmented images in order, with the labels of the split."""
        return pipeline.evaluation_batches(split, self.preprocess, batch_size=config.batch_size, multiple=multiple)


def load_examples(config):
    """What --dataset names, made ready; see `build_examples`.

    Raises:
      UserError: the data are not there, or too few for the batch or the neighbours.
    """
    return build_examples(load_source(config), config)


def build_examples(source, config):
    """Corrupts, holds out, cuts to size; tells the realised rate, and warns of classes without training examples."""
    matrix = None
    if config.noise_source.is_injected:
        matrix = noise.transition_matrix(
            config.noise_source, config.noise_rate, len(source.class_names), dataset=config.dataset,
            symmetric_includes_true=config.symmetric_includes_true)
    if config.neighbor_backend == "scann":
        scann.usable_scann("scann")  # told now, not after the first training
    train, validation = inject_noise(source.train, matrix, config), source.validation  # held out or cut off, labels stay
    if validation is None:
        train, validation = splits.hold_out(train, fraction=config.validation_fraction, seed=config.seed)
    else:
        validation = inject_noise(validation, matrix, config, salt=noise.VALIDATION_NOISE_SALT)
    train = splits.subset(train, config.train_examples, seed=config.seed)
    if config.batch_size > len(train):
        raise UserError(f"--batch_size={config.batch_size} is above the {len(train)} training examples: lower it.")
    if config.method == "mlnt" and config.num_synthetic and config.num_neighbors >= len(train):
        raise UserError(f"--num_neighbors={config.num_neighbors} needs more than the {len(train)} training examples: "
                        "lower it.")
    steps_per_epoch = config.steps_per_epoch or len(train) // config.batch_size
    if steps_per_epoch % config.steps_per_execution:
        raise UserError(f"--steps_per_execution={config.steps_per_execution} must divide the {steps_per_epoch} steps "
                        "of an epoch: change it or --steps_per_epoch.")
    examples = Examples(
        train=train, validation=validation.with_true_labels() if config.validation_labels == "clean" else validation,
        test=source.test.with_true_labels(), class_names=source.class_names,
        bad_images=source.bad_images, preprocess=build_preprocess(config, train.images), steps_per_epoch=steps_per_epoch,
        injected_matrix=matrix if source_is_clean(source.train) else None)
    counts = np.bincount(train.labels, minlength=len(source.class_names))
    if not counts.all():
        logging.warning("no training example has the class %s", ", ".join(
            name for name, count in zip(source.class_names, counts) if not count))
    rate = examples.realized_rate
    logging.info("%s: %d training examples, %s of their labels wrong (--noise=%s); %d validation (%s labels), "
                 "%d test (%s labels)", config.dataset, len(train),
                 "an unknown share" if rate is None else f"{100 * rate:.1f} %", config.noise,
                 len(validation), describe_labels(examples.validation), len(source.test), describe_labels(examples.test))
    return examples


def describe_labels(split):
    """What an accuracy on this split is measured against, in a word."""
    if (split.true_labels < 0).any():
        return "given, as true ones are not known"
    return "clean" if (split.labels == split.true_labels).all() else "noisy"


def build_preprocess(config, images):
    """What the network sees of the images: its own normalization if it has one, else the mean of the training images
    subtracted, pixel by pixel or, where crops shift them, by channel."""
    stored = images.shape
    if config.crop_size > min(stored[:2]):
        raise UserError(f"--crop_size={config.crop_size} is above the images' {stored[0]} x {stored[1]}: lower it, or "
                        "enlarge them by --image_size.")
    shape = (config.crop_size, config.crop_size, stored[2]) if config.crop_size else stored
    normalize = build.normalization(config.model)
    if normalize is None:
        mean = images.mean_image()
        normalize = transforms.Normalizer(mean if shape == stored else mean.mean(axis=(0, 1)))
    return transforms.Preprocess(stored, shape, normalize)


def source_is_clean(split):
    """Whether the labels carry no noise of their own, as far as is known: what is drawn on top is then the whole noise."""
    return bool(((split.true_labels < 0) | (split.true_labels == split.labels)).all())


def inject_noise(split, matrix, config, *, salt=noise.NOISE_SALT):
    """The split with our noise drawn on top of its labels, which are the true ones where no others are known.

    Args:
      matrix: p(given | true), or None for the labels as they are.
      salt: of the draws.
    """
    if matrix is None:
        return split
    given = noise.corrupt_labels(split.labels, split.ids, matrix, seed=config.seed, sampling=config.noise_sampling, salt=salt)
    return dataclasses.replace(split, labels=given, true_labels=split.with_true_labels().labels)
