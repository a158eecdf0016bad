"""The run, stage by stage: cross entropy, then iterations of mentor, filter and training (paper section 3.3)."""

import json

import numpy as np
import tensorflow as tf
from absl import logging

from mlnt_tf import export, files, mentor as mentoring, schedules
from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.meta import neighbors as neighboring
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.methods.mlnt import MLNT
from mlnt_tf.models.registry import feature_extractor
from mlnt_tf.stage import ROLES, Stage


def run(config, *, jit_compile, devices, examples, output_dir, versions):
    """Every stage of the run; a stage that an earlier call has finished is taken from its directory.

    Returns:
      the contents of results.json, which it writes last.
    """
    write_noise_table(output_dir / "noise.csv", examples)
    if examples.bad_images:
        files.write_csv(output_dir / "bad_images.csv", ("record", "reason"), examples.bad_images)
    stage = Stage("cross entropy", output_dir / "cross_entropy", config, examples, jit_compile, devices)
    baseline = stage.results() or train_cross_entropy(stage)
    role = "teacher" if baseline["teacher"]["best_validation"] > baseline["student"]["best_validation"] else "student"
    iterations, best = [], (stage, role, baseline[role]["best_validation"])
    mentor = stage.network("student")  # before the first iteration it gives the features alone
    for iteration in range(1, config.iterations + 1) if config.method == "mlnt" else ():
        stage = Stage(f"iteration {iteration}", output_dir / f"iteration_{iteration}", config, examples, jit_compile,
                      devices)
        result = stage.results() or train_iteration(stage, iteration, mentor)
        role = result["mentor"]
        mentor = stage.network(role)
        iterations.append(result)
        if iteration == 1 or result[role]["best_validation"] >= best[2]:
            best = stage, role, result[role]["best_validation"]
    stage, role, validation = best
    highest = max(baseline[role]["best_validation"] for role in ROLES)
    if highest > validation:
        logging.warning("cross entropy validated at %.1f %%, above the %.1f %% of the %s %s that is exported: train longer, "
                        "or take --method=cross_entropy.", 100 * highest, 100 * validation, stage.name, role)
    network = stage.network(role)
    export.export_saved_model(stage.undistributed(role), output_dir / "saved_model", preprocess=examples.preprocess,
                              class_names=examples.class_names)
    probabilities = mentoring.predict(network, examples.batches(examples.train, config, multiple=devices.replicas))
    write_suspects(output_dir / "suspects.csv", probabilities, examples)
    results = {
        "method": config.method, "dataset": config.dataset, "seed": config.seed,
        "noise": {"kind": config.noise, "rate": config.noise_rate if config.noise.endswith("symmetric") else None,
                  "realized_rate": examples.realized_rate},
        "train_examples": len(examples.train),
        "cross_entropy": baseline["student"], "cross_entropy_ema": baseline["teacher"], "iterations": iterations,
        "exported": f"{stage.name} {role}",
        "exported_filter": mentoring.count_filter(
            mentoring.trusted(probability_of_given(probabilities, examples), config.tau), examples.train.labels,
            examples.train.true_labels),
        "test_accuracy": mentoring.accuracy(
            network, examples.batches(examples.test, config, multiple=devices.replicas), examples.test.labels),
        "versions": versions}
    files.write_json(output_dir / "results.json", results)
    return results


def train_cross_entropy(stage):
    """The baseline, which also gives the features of the first neighbours."""
    config, epochs = stage.config, stage.config.baseline_epochs
    with stage.devices.scope():
        model = CrossEntropy(stage.new_network())
        model.compile(learning_rate=stage.learning_rate(epochs), momentum=config.momentum,
                      weight_decay=config.weight_decay, jit_compile=stage.jit_compile,
                      steps_per_execution=config.steps_per_execution)
    ramp_epochs = config.ramp_epochs * epochs / config.epochs  # the same share of them
    return stage.finish(stage.fit(model, stage.batches(epochs), epochs, ramp_epochs=ramp_epochs))


def train_iteration(stage, iteration, mentor):
    """One iteration of MLNT; `mentor` is the best network of the stage before."""
    config, examples = stage.config, stage.examples
    stage.directory.mkdir(parents=True, exist_ok=True)
    unaugmented = examples.batches(examples.train, config, multiple=stage.devices.replicas)
    result = {"iteration": iteration}
    near, result["neighbors"] = neighborhood(stage, mentor, unaugmented) if config.num_synthetic else ({}, None)
    probability = None
    if iteration > 1:
        probability = kept_table(stage.directory / "mentor_probability.npy", lambda: probability_of_given(
            mentoring.predict(mentor, unaugmented), examples))
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
    with stage.devices.scope():
        model = new_mlnt(config, stage.new_network(), mentor=None if iteration == 1 else mentor,
                         teacher_weight=schedules.Ramp(config.lambda_max, steps))
        model.compile(
            learning_rate=stage.learning_rate(config.epochs), meta_rate=meta_rate(stage, iteration),
            momentum=config.momentum, weight_decay=config.weight_decay, meta_momentum=config.meta_momentum,
            jit_compile=stage.jit_compile, steps_per_execution=config.steps_per_execution)
    ramps = iteration == 1 or config.ema_ramp == "each"
    result.update(stage.fit(model, batches, config.epochs, ramp_epochs=config.ramp_epochs if ramps else 0))
    student, teacher = (result[role]["best_validation"] for role in ROLES)
    result["mentor"] = "student" if student > teacher else "teacher"
    result["seconds"] = stage.seconds()
    return stage.finish(result)


def new_mlnt(config, network, **kwargs):
    """The MLNT model that the flags ask for; `kwargs` as of `MLNT`."""
    return MLNT(network, num_synthetic=config.num_synthetic, transfer_ratio=config.transfer_ratio,
                inner_rate=config.inner_rate, meta_order=config.meta_order, fast_weights=config.fast_weights,
                meta_every=config.meta_every, synthetic_parallelism=config.synthetic_parallelism,
                inner_reduce=config.inner_reduce, update_mode=config.update_mode, seed=config.seed, **kwargs)


def check_network(config, examples):
    """Builds network and model once, so that what is wrong with them is told before any training.

    Raises:
      UserError: the network cannot be built, or not be trained as the flags ask.
    """
    network = examples.new_network(config)
    try:
        feature_extractor(network, config.neighbor_features)
        if config.method == "mlnt":
            new_mlnt(config, network)
    except ValueError as error:
        raise UserError(f"--model={config.model} with --fast_weights={config.fast_weights} and --meta_order="
                        f"{config.meta_order}: {error}; change one of them.") from error


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
    found = stage.directory / "neighbors.json"  # written after the table: a tree of ScaNN's is another each time
    if config.neighbor_scope == "dataset" and found.exists():
        return {"neighbors": np.load(stage.directory / "neighbors.npy")}, json.loads(found.read_text())
    features = mentoring.embed(network, unaugmented, config.neighbor_features, count=len(stage.examples.train),
                               path=stage.directory / "features.npy")
    if config.neighbor_scope == "batch":
        return {"features": features}, {"scope": "batch"}
    table = neighboring.find_neighbors(features, num_neighbors=config.num_neighbors, backend=config.neighbor_backend,
                                       path=stage.directory / "neighbors.npy")
    logging.info("%s: %d nearest neighbours of %d examples by %s, recall %.4f against exact search", stage.name,
                 config.num_neighbors, len(features), table.backend, table.recall)
    indices, path = table.indices, stage.directory / "neighbors.npy"
    if stage.devices.workers > 1:  # of which each has found its own
        indices = stage.devices.of_chief(np.asarray(indices))
        np.save(path, indices)
    report = {"scope": "dataset", "backend": table.backend, "recall": table.recall}
    files.write_json(found, report)
    return {"neighbors": indices}, report


def kept_table(path, compute):
    """The array that an earlier call left in the .npy file `path`, or a new one, written there."""
    if path.exists():
        return np.load(path)
    array = compute()
    with files.whole(path) as scratch:
        np.save(scratch, array)
    return array


def write_noise_table(path, examples):
    """noise.csv: which label each training example was given, and the record it is."""
    train = examples.train
    original = ("" if true < 0 else true for true in train.true_labels)
    files.write_csv(path, ("id", "original", "given", "record"),
                    zip(train.ids, original, train.labels, train.record_names()))


def probability_of_given(probabilities, examples):
    """What predictions [n, classes] say of the given labels: float32 [n]."""
    return probabilities[np.arange(len(examples.train)), examples.train.labels]


def write_suspects(path, probabilities, examples):
    """suspects.csv: the training examples, those whose given label the exported network believes least first."""
    train, given, names = examples.train, examples.train.labels, examples.class_names
    records = train.record_names()
    of_given, predicted = probability_of_given(probabilities, examples), probabilities.argmax(axis=1)
    files.write_csv(path, ("id", "record", "given", "predicted", "probability_of_given"),
                    ((train.ids[row], records[row], names[given[row]], names[predicted[row]],
                      f"{of_given[row]:.6f}") for row in np.argsort(of_given, kind="stable")))
