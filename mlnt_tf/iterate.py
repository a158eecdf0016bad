"""The run, stage by stage: cross entropy, then iterations of mentor, filter and training (paper section 3.3)."""

import csv
import json
import os
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import callbacks, export, mentor as mentoring, schedules
from mlnt_tf.data import pipeline
from mlnt_tf.meta import neighbors as neighboring
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.methods.mlnt import MLNT
from mlnt_tf.teacher import EmaTeacher

ROLES = ("student", "teacher")


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
        return self.examples.new_network(self.config)

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
            inner_rate=config.inner_rate, meta_order=config.meta_order, fast_weights=config.fast_weights,
            meta_every=config.meta_every, synthetic_parallelism=config.synthetic_parallelism,
            update_mode=config.update_mode,
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
    features = mentoring.embed(network, unaugmented, config.neighbor_features, count=len(stage.examples.train),
                               path=stage.directory / "features.npy")
    if config.neighbor_scope == "batch":
        return {"features": features}, {"scope": "batch"}
    table = neighboring.find_neighbors(features, num_neighbors=config.num_neighbors, backend=config.neighbor_backend,
                                       path=stage.directory / "neighbors.npy")
    logging.info("%s: %d nearest neighbours of %d examples by %s, recall %.4f against exact search", stage.name,
                 config.num_neighbors, len(features), table.backend, table.recall)
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
