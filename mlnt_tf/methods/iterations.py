"""MLNT from cross entropy on: iterations of mentor, filter and training (paper section 3.3)."""

import fractions
import json

import numpy as np
from absl import logging

from mlnt_tf import files, mentor as mentoring, schedules
from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.meta import neighbors as neighboring
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.mlnt import MLNT
from mlnt_tf.models.registry import feature_extractor
from mlnt_tf.stage import ROLES, Outcome


def train(run):
    """The iterations, after a stage of cross entropy for the first features; exports the best of them by validation.

    Without the meta loss (M = 0) there are no neighbours to find: the first iteration is that cross entropy.
    """
    mentor, best, highest, simpler = None, None, 0.0, ""
    if run.config.num_synthetic:
        stage, baseline = cross_entropy.train_stage(run)
        mentor = stage.network("student")
        highest, simpler = max((baseline[role]["best_validation"], method) for role, method in zip(
            ROLES, ("cross_entropy", "cross_entropy_ema")))
    for iteration in range(1, run.config.iterations + 1):
        stage = run.stage(f"iteration {iteration}")
        result = stage.results() or train_iteration(run, stage, iteration, mentor)
        role = result["mentor"]
        mentor, validation = stage.network(role), result[role]["best_validation"]
        if best is None or validation >= best[2]:
            best = stage, role, validation
    stage, role, validation = best
    if highest > validation:
        logging.warning("cross entropy validated at %.1f %%, above the %.1f %% of the %s %s that is exported: train "
                        "longer, or take --method=%s.", 100 * highest, 100 * validation, stage.name, role, simpler)
    return Outcome(stage, role)


def check(config, examples, network):
    """Raises UserError unless the network can be trained as the flags ask."""
    try:
        feature_extractor(network, config.neighbor_features)
        new_mlnt(config, network)
    except ValueError as error:
        raise UserError(f"--model={config.model} with --fast_weights={config.fast_weights} and --meta_order="
                        f"{config.meta_order}: {error}; change one of them.") from error


def planned_epochs(config, examples):
    """Number of epochs by kind of step. With --meta_every, only every n-th step has a meta update."""
    total = config.iterations * config.epochs
    if not config.num_synthetic:
        return {"cross entropy": total}
    meta = fractions.Fraction(total, config.meta_every)
    return {"cross entropy": config.baseline_epochs + total - meta, "mlnt": meta}


def train_iteration(run, stage, iteration, mentor):
    """One iteration of MLNT; `mentor` is the best network of the stage before."""
    config, examples = stage.config, stage.examples
    stage.directory.mkdir(parents=True, exist_ok=True)
    unaugmented = run.training_examples()
    result = {"iteration": iteration}
    near, result["neighbors"] = neighborhood(stage, mentor, unaugmented) if config.num_synthetic else ({}, None)
    probability = None
    if iteration > 1:
        probability = mentoring.kept_table(stage.directory / "mentor_probability.npy", lambda: mentoring.probability_of(
            examples.train.labels, mentoring.predict(mentor, unaugmented)))
    kept = np.ones(len(examples.train), bool) if probability is None else mentoring.trusted(probability, config.tau)
    result.update(mentoring.describe_filter(kept, examples.train.labels, examples.train.true_labels,
                                            examples.class_names, config.tau))
    known = "" if examples.realized_rate is None or result["filter_precision"] is None else (
        f", {100 * result['filter_precision']:.1f} % of them with the right label "
        f"(all: {100 * (1 - examples.realized_rate):.1f} %)")
    logging.info("%s: %d of %d examples kept%s", stage.name, result["kept"], len(kept), known)
    if probability is None:
        batches = stage.batches(config.epochs, **near)
    else:
        batches = stage.batches(config.epochs, probability=probability, threshold=config.tau, stream=1)
        if config.num_synthetic:  # the meta loss samples all the data
            batches = pipeline.two_streams(stage.batches(config.epochs, **near), batches)
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
    return stage.finish(result)


def new_mlnt(config, network, **kwargs):
    """The MLNT model that the flags ask for; `kwargs` as of `MLNT`."""
    return MLNT(network, num_synthetic=config.num_synthetic, transfer_ratio=config.transfer_ratio,
                inner_rate=config.inner_rate, meta_order=config.meta_order, fast_weights=config.fast_weights,
                meta_every=config.meta_every, synthetic_parallelism=config.synthetic_parallelism,
                inner_reduce=config.inner_reduce, update_mode=config.update_mode, seed=config.seed, **kwargs)


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
