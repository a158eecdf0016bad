"""The run, stage by stage: cross entropy, then iterations of mentor, filter and training (paper section 3.3)."""

import csv
import dataclasses
import json
import os
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import callbacks, export, mentor as mentoring, schedules
from mlnt_tf.config import UserError
from mlnt_tf.data import noise, pipeline, preprocess as preprocessing, sources, splits
from mlnt_tf.meta import neighbors as neighboring
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.methods.mlnt import MLNT
from mlnt_tf.models import registry
from mlnt_tf.teacher import EmaTeacher

ROLES = ("student", "teacher")


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a run trains, validates and tests on: splits whose labels are those it uses, the true ones beside them."""

    train: splits.Split
    validation: splits.Split
    test: splits.Split
    class_names: tuple
    bad_images: tuple  # (record, reason)
    preprocess: preprocessing.Preprocess
    steps_per_epoch: int

    @property
    def realized_rate(self):
        """Share of wrong labels in training, None where no true label is known."""
        return noise.realized_rate(self.train.true_labels, self.train.labels)

    def batches(self, split, config):
        """Un-augmented images in order, with the labels of the split."""
        return pipeline.evaluation_batches(split, self.preprocess, batch_size=config.batch_size)


def load_examples(config):
    """Loads, corrupts, holds out, cuts to size; tells the realised rate.

    Raises:
      UserError: the data are not there, or too few for the batch or the neighbours.
    """
    source = sources.load_source(config)
    matrix = noise.transition_matrix(
        config.noise, config.noise_rate, len(source.class_names), dataset=config.dataset,
        symmetric_includes_true=config.symmetric_includes_true)
    if config.neighbor_backend == "scann":
        neighboring.usable_scann("scann")  # told now, not after the first training
    train, validation = corrupted(source.train, matrix, config), source.validation  # held out or cut off, labels stay
    if validation is None:
        train, validation = splits.hold_out(train, fraction=config.validation_fraction, seed=config.seed)
    else:
        validation = corrupted(validation, matrix, config, first=source.train.ids[-1] + 1)
    train = splits.subset(train, config.train_examples, seed=config.seed)
    if config.batch_size > len(train):
        raise UserError(f"--batch_size={config.batch_size} is above the {len(train)} training examples: lower it.")
    if config.num_neighbors >= len(train):
        raise UserError(f"--num_neighbors={config.num_neighbors} needs more than the {len(train)} training examples: "
                        "lower it.")
    steps_per_epoch = config.steps_per_epoch or len(train) // config.batch_size
    if steps_per_epoch % config.steps_per_execution:
        raise UserError(f"--steps_per_execution={config.steps_per_execution} must divide the {steps_per_epoch} steps "
                        "of an epoch: change it or --steps_per_epoch.")
    examples = Examples(
        train=train, validation=validation.with_true_labels() if config.validation_labels == "clean" else validation,
        test=source.test.with_true_labels(), class_names=source.class_names,
        bad_images=source.bad_images, preprocess=preprocess_for(config, train.images), steps_per_epoch=steps_per_epoch)
    if ":" in config.model or config.pretrained_weights != "none":
        new_network(config, examples)  # what is wrong with it is told now
    rate = examples.realized_rate
    logging.info("%s: %d training examples, %s of their labels wrong (--noise=%s); %d validation (%s labels), "
                 "%d test", config.dataset, len(train), "an unknown share" if rate is None else f"{100 * rate:.1f} %",
                 config.noise, len(validation), config.validation_labels, len(source.test))
    return examples


def preprocess_for(config, images):
    """What the network sees of the images: its own normalization if it has one, else the mean of the training images
    subtracted, pixel by pixel or, where crops shift them, by channel."""
    stored = images.shape
    if config.crop_size > min(stored[:2]):
        raise UserError(f"--crop_size={config.crop_size} is above the images' {stored[0]} x {stored[1]}: lower it, or "
                        "enlarge them by --image_size.")
    shape = (config.crop_size, config.crop_size, stored[2]) if config.crop_size else stored
    normalize = registry.normalization(config.model)
    if normalize is None:
        mean = images.mean_image()
        normalize = preprocessing.Normalizer(mean if shape == stored else mean.mean(axis=(0, 1)))
    return preprocessing.Preprocess(stored, shape, normalize)


def new_network(config, examples):
    return registry.build_network(
        config.model, width=config.width, input_shape=examples.preprocess.shape,
        num_classes=len(examples.class_names), seed=config.seed, pretrained_weights=config.pretrained_weights)


def corrupted(split, matrix, config, *, first=0):
    """The split with our noise drawn on top of its labels, which are the true ones where no others are known.

    Args:
      first: where the draws of this split begin.
    """
    if config.noise not in noise.KINDS and not config.noise.startswith("matrix:"):
        return split
    given = noise.corrupt(split.labels, first + split.ids, matrix, seed=config.seed, sampling=config.noise_sampling)
    return dataclasses.replace(split, labels=given, true_labels=split.with_true_labels().labels)


def run(config, *, jit_compile, examples, output_dir, versions):
    """Every stage of the run; a stage that an earlier call has finished is taken from its directory.

    Returns:
      the contents of results.json, which it writes last.
    """
    write_noise_table(output_dir / "noise.csv", examples)
    if examples.bad_images:
        write_csv(output_dir / "bad_images.csv", ("record", "reason"), examples.bad_images)
    stage = Stage("cross entropy", output_dir / "cross_entropy", config, examples, jit_compile)
    baseline = stage.results() or train_cross_entropy(stage)
    iterations, best = [], (stage.network("student"), baseline["student"]["best_validation"], "cross entropy student")
    mentor = best[0]  # before the first iteration it gives the features alone
    for iteration in range(1, config.iterations + 1) if config.method == "mlnt" else ():
        stage = Stage(f"iteration {iteration}", output_dir / f"iteration_{iteration}", config, examples, jit_compile)
        result = stage.results() or train_iteration(stage, iteration, mentor)
        role = result["mentor"]
        mentor = stage.network(role)
        iterations.append(result)
        if iteration == 1 or result[role]["best_validation"] >= best[1]:
            best = mentor, result[role]["best_validation"], f"iteration {iteration} {role}"
    network, _, exported = best
    export.export_saved_model(network, output_dir / "saved_model", preprocess=examples.preprocess,
                              class_names=examples.class_names)
    probabilities = mentoring.predict(network, examples.batches(examples.train, config))
    write_suspects(output_dir / "suspects.csv", probabilities, examples)
    results = {
        "method": config.method, "dataset": config.dataset, "seed": config.seed,
        "noise": {"kind": config.noise, "rate": config.noise_rate if config.noise.endswith("symmetric") else None,
                  "realized_rate": examples.realized_rate},
        "train_examples": len(examples.train),
        "cross_entropy": baseline["student"], "cross_entropy_ema": baseline["teacher"], "iterations": iterations,
        "exported": exported,
        "exported_filter": mentoring.count_filter(
            mentoring.trusted(probability_of_given(probabilities, examples), config.tau), examples.train.labels,
            examples.train.true_labels),
        "test_accuracy": mentoring.accuracy(network, examples.batches(examples.test, config), examples.test.labels),
        "versions": versions}
    write_json(output_dir / "results.json", results)
    return results


class Stage:
    """One training from the initial weights to its results, with a directory of its own."""

    def __init__(self, name, directory, config, examples, jit_compile):
        self.name, self.directory, self.config, self.examples = name, directory, config, examples
        self.jit_compile = jit_compile

    def results(self):
        """What a finished stage wrote, or None."""
        path = self.directory / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def network(self, role):
        """The best network of a finished stage."""
        return keras.models.load_model(self.directory / f"{role}_best.keras", compile=False)

    def new_network(self):
        """The network at its initial weights, the same for every stage of a run."""
        return new_network(self.config, self.examples)

    def batches(self, epochs, **kwargs):
        """The training stream of this stage; see `pipeline.training_batches`."""
        config, examples = self.config, self.examples
        return pipeline.training_batches(
            examples.train, examples.preprocess, batch_size=config.batch_size, epochs=epochs,
            steps_per_epoch=examples.steps_per_epoch, seed=config.seed, augmented=config.augment,
            num_neighbors=config.num_neighbors, **kwargs)

    def learning_rate(self, epochs):
        """beta: falls to a tenth after the same share of the epochs in every stage."""
        decay = self.config.decay_epochs
        return schedules.StepDecay(
            self.config.learning_rate,
            decay and round(decay / self.config.epochs * epochs * self.examples.steps_per_epoch))

    def fit(self, model, batches, epochs):
        """Trains, validates each epoch, keeps the best networks, and measures them; the results of both roles."""
        config, examples, steps = self.config, self.examples, self.examples.steps_per_epoch
        self.directory.mkdir(parents=True, exist_ok=True)
        validation = examples.batches(examples.validation, config)
        teacher = EmaTeacher(config.ema_decay, decay_start=config.ema_decay_start, statistics=config.teacher_statistics,
                             ramp_steps=round(config.ramp_epochs / config.epochs * epochs * steps))
        history = model.fit(
            batches, epochs=epochs, steps_per_epoch=steps, validation_data=validation, verbose=0, shuffle=False,
            callbacks=[callbacks.StopOnNonFinite(), teacher,
                       *(callbacks.SaveBest(role, self.directory / f"{role}_best.keras") for role in ROLES),
                       callbacks.Progress(self.name, epochs), keras.callbacks.TensorBoard(self.directory)]).history
        test = examples.batches(examples.test, config)
        measured = {}
        for role, monitor in zip(ROLES, ("val_accuracy", "val_teacher_accuracy")):
            measured[role] = {
                "best_validation": max(history[monitor]), "last_validation": history[monitor][-1],
                "best_epoch": int(np.argmax(history[monitor])) + 1,
                "test_at_best": mentoring.accuracy(self.network(role), test, examples.test.labels),
                "test_last": mentoring.accuracy(getattr(model, role), test, examples.test.labels)}
        return measured

    def finish(self, result):
        """Writes the result: from here on the stage need not run again."""
        write_json(self.directory / "result.json", result)
        return result


def train_cross_entropy(stage):
    """The baseline, which also gives the features of the first neighbours."""
    config, epochs = stage.config, stage.config.baseline_epochs
    with tf.distribute.get_strategy().scope():
        model = CrossEntropy(stage.new_network())
        model.compile(learning_rate=stage.learning_rate(epochs), momentum=config.momentum,
                      weight_decay=config.weight_decay, jit_compile=stage.jit_compile,
                      steps_per_execution=config.steps_per_execution)
    return stage.finish(stage.fit(model, stage.batches(epochs), epochs))


def train_iteration(stage, iteration, mentor):
    """One iteration of MLNT; `mentor` is the best network of the stage before."""
    config, examples, began = stage.config, stage.examples, time.monotonic()
    stage.directory.mkdir(parents=True, exist_ok=True)
    unaugmented = examples.batches(examples.train, config)
    result = {"iteration": iteration}
    near, result["neighbors"] = neighborhood(stage, mentor, unaugmented) if config.num_synthetic else ({}, None)
    probability = None
    if iteration > 1:
        probability = probability_of_given(mentoring.predict(mentor, unaugmented), examples)
        np.save(stage.directory / "mentor_probability.npy", probability)
    kept = np.ones(len(examples.train), bool) if probability is None else mentoring.trusted(probability, config.tau)
    result.update(mentoring.describe_filter(kept, examples.train.labels, examples.train.true_labels,
                                            examples.class_names, config.tau))
    known = "" if examples.realized_rate is None or result["filter_precision"] is None else (
        f", {100 * result['filter_precision']:.1f} % of them with the right label "
        f"(all: {100 * (1 - examples.realized_rate):.1f} %)")
    logging.info("%s: %d of %d examples kept%s", stage.name, result["kept"], len(kept), known)
    batches = stage.batches(config.epochs, **near)
    if probability is not None:
        batches = pipeline.two_streams(batches, stage.batches(
            config.epochs, probability=probability, threshold=config.tau, stream=1))
    steps = config.epochs * examples.steps_per_epoch
    with tf.distribute.get_strategy().scope():
        model = MLNT(
            stage.new_network(), num_synthetic=config.num_synthetic, transfer_ratio=config.transfer_ratio,
            inner_rate=config.inner_rate, meta_order=config.meta_order, update_mode=config.update_mode,
            mentor=None if iteration == 1 else mentor, teacher_weight=schedules.Ramp(config.lambda_max, steps),
            seed=config.seed)
        model.compile(
            learning_rate=stage.learning_rate(config.epochs), meta_rate=meta_rate(stage, iteration),
            momentum=config.momentum, weight_decay=config.weight_decay, meta_momentum=config.meta_momentum,
            jit_compile=stage.jit_compile, steps_per_execution=config.steps_per_execution)
    result.update(stage.fit(model, batches, config.epochs))
    student, teacher = (result[role]["best_validation"] for role in ROLES)
    result["mentor"] = "student" if student > teacher else "teacher"
    result["seconds"] = time.monotonic() - began
    return stage.finish(result)


def meta_rate(stage, iteration):
    """eta: ramps up in the first iteration; afterwards stays, or falls with the learning rate if so asked."""
    config = stage.config
    shape = config.meta_ramp if iteration == 1 else "none"
    ramp = schedules.Ramp(config.meta_rate, round(config.ramp_epochs * stage.examples.steps_per_epoch), shape=shape)
    if config.meta_rate_decay == "constant":
        return ramp
    return schedules.StepDecay(ramp, stage.learning_rate(config.epochs).boundary)


def neighborhood(stage, network, unaugmented):
    """Neighbours by the network's features: (keywords for the pipeline, what to report)."""
    config = stage.config
    features = mentoring.embed(network, unaugmented, config.neighbor_features)
    if config.neighbor_scope == "batch":
        return {"features": features}, {"scope": "batch"}
    table = neighboring.find_neighbors(features, num_neighbors=config.num_neighbors, backend=config.neighbor_backend)
    logging.info("%s: %d nearest neighbours of %d examples by %s, recall %.4f against exact search", stage.name,
                 config.num_neighbors, len(features), table.backend, table.recall)
    np.save(stage.directory / "neighbors.npy", table.indices)
    return {"neighbors": table.indices}, {"scope": "dataset", "backend": table.backend, "recall": table.recall}


def write_noise_table(path, examples):
    """noise.csv: which label each training example was given, and the record it is."""
    train = examples.train
    original = ("" if true < 0 else true for true in train.true_labels)
    write_csv(path, ("id", "original", "given", "record"), zip(train.ids, original, train.labels, train.record_names()))


def probability_of_given(probabilities, examples):
    """What predictions [n, classes] say of the given labels: float32 [n]."""
    return probabilities[np.arange(len(examples.train)), examples.train.labels]


def write_suspects(path, probabilities, examples):
    """suspects.csv: the training examples, those whose given label the exported network believes least first."""
    train, given, names = examples.train, examples.train.labels, examples.class_names
    records = train.record_names()
    of_given, predicted = probability_of_given(probabilities, examples), probabilities.argmax(axis=1)
    write_csv(path, ("id", "record", "given", "predicted", "probability_of_given"),
              ((train.ids[row], records[row], names[given[row]], names[predicted[row]], f"{of_given[row]:.6f}")
               for row in np.argsort(of_given, kind="stable")))


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path, content):
    """Writes whole or not at all."""
    path = pathlib.Path(path)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(scratch, path)
