"""The complete method: a cross-entropy warm-up, then iterations of mentor, filter and training (paper section 3.3)."""

import fractions

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.select import Candidate, select
from mlnt_tf.experiment.stage import learning_rate_schedule
from mlnt_tf.files import artifacts
from mlnt_tf.labels import filter as filtering
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.mlnt import MLNT
from mlnt_tf.models import predict
from mlnt_tf.models.surgery import feature_extractor
from mlnt_tf.neighbors import find_neighbors
from mlnt_tf.training import schedules


def candidates(stages):
    """Returns the networks of every iteration, in order."""
    return [Candidate(stage, network) for stage in stages if "iteration" in stage.result
            for network in stage.result["validation"]]


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step. With --meta_every, only every n-th step has a meta update."""
    del examples
    total = config.iterations * config.epochs
    if config.num_synthetic == 0:
        return {"cross entropy": total}
    meta = fractions.Fraction(total, config.meta_every)
    return {"cross entropy": config.baseline_epochs + total - meta, "mlnt": meta}


def check(config, examples, network, *, num_synthetic=None):
    """Raises UserError unless the network can be trained as the flags ask; M is --num_synthetic unless given."""
    del examples
    try:
        feature_extractor(network, config.neighbor_features)
        new_mlnt(config, network, num_synthetic=num_synthetic)
    except ValueError as error:
        raise UserError(f"--model={config.model} with --fast_weights={config.fast_weights} and --meta_order="
                        f"{config.meta_order}: {error} Change one of them.") from error


def train(run):
    """Trains the iterations, after a stage of cross entropy that gives the first features.

    Without the meta loss (M = 0) no neighbors are needed, and the first iteration is that cross entropy.
    """
    if run.config.num_synthetic == 0:
        train_iterations(run, mentor=None)
        return
    baseline = cross_entropy.train_stage(run)
    train_iterations(run, mentor=Candidate(baseline, "student"))
    warn_if_the_baseline_is_better(baseline, select(candidates(run.stages)))


def train_iterations(run, mentor, *, num_synthetic=None):
    """Trains --iterations iterations; the best network of each is the mentor of the next.

    Args:
      run: the `Run`.
      mentor: `Candidate`, the network whose features give the first neighbors; None without the meta loss.
      num_synthetic: M; by default --num_synthetic.
    """
    if num_synthetic is None:
        num_synthetic = run.config.num_synthetic
    for iteration in range(1, run.config.iterations + 1):
        stage = run.stage(f"iteration {iteration}")
        if stage.result is None:
            train_iteration(run, stage, iteration, mentor, num_synthetic)
        mentor = Candidate(stage, stage.result["mentor"])


def warn_if_the_baseline_is_better(baseline, exported):
    """Logs a warning if cross entropy validated higher than what is exported."""
    simpler = select([Candidate(baseline, "teacher"), Candidate(baseline, "student")])
    if simpler.validation_accuracy > exported.validation_accuracy:
        method = {"student": "cross_entropy", "teacher": "cross_entropy_ema"}[simpler.network]
        logging.warning("Cross entropy validated at %.1f %%, above the %.1f %% of the exported network (%s %s). Train "
                        "longer, or use --method=%s.", 100 * simpler.validation_accuracy,
                        100 * exported.validation_accuracy, exported.stage.name, exported.network, method)


def train_iteration(run, stage, iteration, mentor, num_synthetic):
    """Trains one iteration; `mentor` is the `Candidate` of the stage before."""
    config, examples = run.config, run.examples
    stage.directory.mkdir(parents=True, exist_ok=True)
    network = mentor.stage.network(mentor.network) if mentor else None
    report = {"iteration": iteration}
    meta_stream, report["neighbors"] = {}, None
    if num_synthetic:
        meta_stream, report["neighbors"] = find_stage_neighbors(stage, mentor, network)
    targets = Targets.given(examples.train)
    if iteration > 1:
        targets = filtered_targets(stage, mentor, network)
    report.update(describe_targets(stage, targets))
    steps = config.epochs * examples.steps_per_epoch
    ramps = iteration == 1 or config.ema_ramp == "each"

    def new_model(student):
        return new_mlnt(config, student, num_synthetic=num_synthetic, mentor=network if iteration > 1 else None,
                        teacher_weight=schedules.Ramp(config.lambda_max, steps))

    measured = stage.train_model(
        new_model, batches=training_stream(stage, iteration, targets, meta_stream, num_synthetic),
        ramp_epochs=config.ramp_epochs if ramps else 0, meta=meta_optimizer(config, examples, iteration))
    # Ties go to the teacher, the later of the two.
    best = max(reversed(measured["validation"]), key=lambda name: measured[name]["best_validation"])
    stage.finish({**report, **measured, "mentor": best})


def training_stream(stage, iteration, targets, meta_stream, num_synthetic):
    """Returns the training batches: from the second iteration on, the two updates of a step see two streams.

    The meta loss samples all of D; the classification loss only what the filter selects.
    """
    epochs = stage.config.epochs
    whole_batches = stage.config.neighbor_scope == "batch" and num_synthetic > 0
    if iteration == 1:
        return stage.batches(epochs, whole_batches=whole_batches, **meta_stream)
    classification = stage.batches(epochs, targets=targets, stream=1)
    if not num_synthetic:
        return classification
    return pipeline.two_streams(stage.batches(epochs, whole_batches=whole_batches, **meta_stream), classification)


def filtered_targets(stage, mentor, network):
    """Returns the Targets that the mentor's filter selects; its probabilities are stored next to the stage's results."""
    train, config = stage.examples.train, stage.config

    def compute(scratch):
        del scratch
        return filtering.probability_of_labels(train.labels, predict.predict_probabilities(network, stage.run.training_images()))

    probability, _ = artifacts.load_or_compute(stage.directory / "mentor_probability.npy", compute,
                                               inputs=mentor_inputs(stage, mentor))
    return Targets(train.labels, selected=filtering.keep_trusted(probability, config.tau),
                   selected_by=f"--tau={config.tau}")


def describe_targets(stage, targets):
    """Logs how many examples are selected, and returns the counts for the stage's result."""
    examples = stage.examples
    train = examples.train
    kept = np.ones(len(train), bool) if targets.selected is None else targets.selected
    filtering.warn_of_empty_classes(kept, train.labels, examples.class_names, flag=f"--tau={stage.config.tau}")
    statistics = filtering.filter_statistics(kept, train.labels, train.true_labels)
    known = ""
    if examples.realized_rate is not None and statistics["filter_precision"] is not None:
        known = (f", {100 * statistics['filter_precision']:.1f} % of them with the right label "
                 f"(all: {100 * (1 - examples.realized_rate):.1f} %)")
    logging.info("%s: %d of %d examples kept%s", stage.name, statistics["kept"], len(kept), known)
    return statistics


def new_mlnt(config, network, *, num_synthetic=None, **kwargs):
    """Returns the MLNT model that the flags ask for.

    Args:
      config: a Config.
      network: a Keras network that gives logits.
      num_synthetic: M; by default --num_synthetic.
      **kwargs: further arguments of `MLNT`.
    """
    return MLNT(network, num_synthetic=config.num_synthetic if num_synthetic is None else num_synthetic,
                transfer_ratio=config.transfer_ratio, inner_rate=config.inner_rate, meta_order=config.meta_order,
                fast_weights=config.fast_weights, meta_every=config.meta_every,
                synthetic_parallelism=config.synthetic_parallelism, inner_reduce=config.inner_reduce,
                update_mode=config.update_mode, seed=config.seed, **kwargs)


def meta_optimizer(config, examples, iteration):
    """Returns the arguments that MLNT adds to `compile`: eta's schedule and momentum.

    eta ramps up in the first iteration. Afterwards it stays constant, or falls with the learning rate if asked to.
    """
    shape = config.meta_ramp if iteration == 1 else "none"
    rate = schedules.Ramp(config.meta_rate, round(config.ramp_epochs * examples.steps_per_epoch), shape=shape)
    if config.meta_rate_decay == "follow":
        falls_at = learning_rate_schedule(config, examples.steps_per_epoch, config.epochs).boundary
        rate = schedules.StepDecay(rate, falls_at)
    return {"meta_rate": rate, "meta_momentum": config.meta_momentum}


def mentor_inputs(stage, mentor):
    """Returns the digest of what a table computed with the mentor depends on."""
    return artifacts.digest_of(stage.run.inputs, artifacts.file_digest(mentor.stage.network_path(mentor.network)))


def find_stage_neighbors(stage, mentor, network):
    """Finds neighbors by the mentor's features.

    Args:
      stage: the `Stage`.
      mentor: `Candidate`.
      network: the mentor's network, on every device.

    Returns:
      (arguments for the meta stream of the pipeline, what to report).
    """
    config, examples = stage.config, stage.examples

    def features():
        return predict.extract_features(network, stage.run.training_images(), config.neighbor_features,
                               count=len(examples.train), path=stage.directory / "features.npy")

    def compute(scratch):
        table = find_neighbors(features(), num_neighbors=config.num_neighbors,
                                           backend=config.neighbor_backend, path=scratch)
        logging.info("%s: %d nearest neighbors of %d examples by %s, recall %.4f against exact search", stage.name,
                     config.num_neighbors, len(examples.train), table.backend, table.recall)
        report = {"scope": "dataset", "backend": table.backend, "recall": table.recall}
        if stage.devices.workers == 1:
            return None, report  # the table was written to the scratch file
        # Each worker has found a table of its own, and a tree of ScaNN's is not deterministic: all take the chief's.
        return stage.devices.of_chief(np.asarray(table.indices)), report

    if config.neighbor_scope == "batch":
        return {"features": features()}, {"scope": "batch"}
    indices, report = artifacts.load_or_compute(stage.directory / "neighbors.npy", compute,
                                                inputs=mentor_inputs(stage, mentor))
    return {"neighbors": indices}, report
