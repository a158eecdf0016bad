"""--method=mlnt: a warm-up, then iterations of mentor, filter and training (paper section 3.3).

The model is `mlnt_tf.methods.mlnt_model.MLNT`. `train_iteration` performs one iteration, in the
order of that section. The functions below it follow the same order.
"""

import fractions

import numpy as np
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.neighborhood import find_stage_neighbors
from mlnt_tf.experiment.select import Candidate, best_network, select
from mlnt_tf.files import artifacts
from mlnt_tf.labels.filter import (
    empty_classes,
    filter_statistics,
    probability_of_labels,
    select_trusted,
)
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.mlnt_model import MLNT
from mlnt_tf.models import predict
from mlnt_tf.models.submodels import feature_extractor
from mlnt_tf.training import schedules
from mlnt_tf.training.compile import learning_rate_schedule


def candidates(stages):
    """Returns the networks of every iteration, in order."""
    return [Candidate(stage, network) for stage in stages if "iteration" in stage.result
            for network in stage.result["validation"]]


def planned_epochs(config, examples):
    """Returns the epochs of each kind of step (see `mlnt_tf.methods.Method`).

    With --meta_every=n, only every n-th step has a meta update. The others cost what a step of
    cross entropy costs.
    """
    del examples
    total = config.iterations * config.epochs
    if config.num_synthetic == 0:
        return {"cross entropy": total}
    meta = fractions.Fraction(total, config.meta_every)
    return {"cross entropy": config.baseline_epochs + total - meta, "mlnt": meta}


def check(config, examples, network):
    """Raises UserError if the network cannot be trained with these flags."""
    del examples
    check_network(config, network, config.num_synthetic)


def check_network(config, network, num_synthetic):
    """Raises UserError if the network cannot be trained with these flags and this M."""
    try:
        feature_extractor(network, config.neighbor_features)
    except ValueError as error:
        raise UserError(f"--model={config.model} cannot provide the features of a neighbor search "
                        f"({error}). Choose another model.") from error
    try:
        new_mlnt(config, network, num_synthetic)
    except ValueError as error:
        raise UserError(f"--model={config.model} does not fit --fast_weights={config.fast_weights} "
                        f"and --meta_order={config.meta_order} ({error}). Change one of "
                        "them.") from error


def train(run):
    """Trains a stage of cross entropy, whose features give the first neighbors, then iterations.

    Without the meta loss (M = 0) no neighbors are needed, and the first iteration is a training
    with cross entropy itself. There is no warm-up then.
    """
    num_synthetic = run.config.num_synthetic
    if num_synthetic == 0:
        train_iterations(run, None, num_synthetic)
        return
    baseline = cross_entropy.train_stage(run)
    train_iterations(run, Candidate(baseline, "student"), num_synthetic)
    warn_if_the_baseline_is_better(baseline, select(candidates(run.stages)))


def train_iterations(run, feature_source, num_synthetic):
    """Trains --iterations iterations. The best network of each is the mentor of the next.

    Args:
      run: the `Run`.
      feature_source: the `Candidate` whose features give the first neighbors. None if M = 0.
      num_synthetic: int, M.
    """
    for iteration in range(1, run.config.iterations + 1):
        stage = run.stage(f"iteration {iteration}")
        if stage.result is None:
            train_iteration(stage, iteration, feature_source, num_synthetic)
        feature_source = Candidate(stage, stage.result["mentor"])


def train_iteration(stage, iteration, feature_source, num_synthetic):
    """Trains one iteration from the initial weights, and stores its result.

    Args:
      stage: the iteration's `Stage`.
      iteration: int, counted from 1.
      feature_source: the `Candidate` of the stage before, whose features give the neighbors. From
        the second iteration on, it is the mentor as well. None if the first has no meta loss.
      num_synthetic: int, M.
    """
    config, examples = stage.config, stage.examples
    stage.directory.mkdir(parents=True, exist_ok=True)

    # 1. The best network of the stage before is loaded. It is not trained any further.
    source_network = None
    if feature_source:
        source_network = feature_source.stage.load_best(feature_source.network)

    # 2. Its features give the neighbors whose labels the meta loss transfers.
    neighbor_arguments, neighbor_report = {}, None
    if num_synthetic:
        neighbor_arguments, neighbor_report = find_stage_neighbors(
            stage, feature_source, source_network)

    # 3. From the second iteration on it is the mentor: its filter selects D', and its predictions
    # are merged into the teacher's.
    if iteration == 1:
        targets, mentor = Targets.given(examples.train), None
    else:
        targets, mentor = filter_targets(stage, feature_source, source_network), source_network
    statistics = report_selection(stage, targets)

    # 4. A new student trains on D for the meta loss and on D' for the classification loss.
    teacher_weight = schedules.Ramp(config.lambda_max, config.epochs * examples.steps_per_epoch)

    def new_model(student):
        return new_mlnt(config, student, num_synthetic, mentor=mentor,
                        teacher_weight=teacher_weight)

    ema_ramps = iteration == 1 or config.ema_ramp == "each"
    measured = stage.train_model(
        new_model,
        batches=iteration_batches(stage, iteration, targets, neighbor_arguments, num_synthetic),
        ramp_epochs=config.ramp_epochs if ema_ramps else 0,
        meta=meta_settings(config, examples, iteration))

    # 5. The best network by validation accuracy is the next mentor.
    stage.finish({"iteration": iteration, "neighbors": neighbor_report, **statistics, **measured,
                  "mentor": best_network(measured)})


def filter_targets(stage, candidate, mentor):
    """Returns the `Targets` with D', the examples that the mentor's filter selects.

    The mentor's probabilities of the given labels are stored in mentor_probability.npy.

    Args:
      stage: the `Stage`.
      candidate: the `Candidate` that the mentor was loaded from.
      mentor: its network, on every device.

    Raises:
      UserError: the filter selects no example.
    """
    config, labels = stage.config, stage.examples.train.labels

    def compute(scratch):
        del scratch
        images = stage.run.training_images()
        return probability_of_labels(labels, predict.predict_probabilities(mentor, images))

    probability, _ = artifacts.load_or_compute(
        stage.directory / "mentor_probability.npy", compute, inputs=candidate.digest)
    return Targets(labels, selected=select_trusted(probability, config.tau),
                   selected_by=f"--tau={config.tau}")


def report_selection(stage, targets):
    """Logs how many examples are selected. Returns `filter_statistics` for the stage's result."""
    examples, train = stage.examples, stage.examples.train
    selected = targets.selected
    if selected is None:
        selected = np.ones(len(train), bool)
    warn_about_empty_classes(selected, train.labels, examples.class_names,
                             flag=f"--tau={stage.config.tau}")
    statistics = filter_statistics(selected, train.labels, train.true_labels)
    accuracy = ""
    if examples.realized_rate is not None and statistics["filter_precision"] is not None:
        accuracy = (f"; {100 * statistics['filter_precision']:.1f} % of their labels are correct "
                    f"({100 * (1 - examples.realized_rate):.1f} % of all)")
    logging.info("%s: trains on %d of %d examples%s", stage.name, statistics["kept"], len(train),
                 accuracy)
    return statistics


def warn_about_empty_classes(selected, given, class_names, *, flag):
    """Logs a warning that names every class of which no example is selected.

    Args:
      selected: bool [n], the selected examples.
      given: int32 [n], the given labels.
      class_names: list of str.
      flag: str, the flag that decides the selection, with its value.
    """
    empty = empty_classes(selected, given, len(class_names))
    if not len(empty):
        return
    available = np.bincount(given, minlength=len(class_names))
    remaining = np.bincount(given[selected], minlength=len(class_names))
    names = ", ".join(f"{class_names[label]} (0 of {available[label]})" for label in empty)
    logging.warning("%s leaves no example of %s. Examples per class after the filter: %s. Lower "
                    "--tau to select more.", flag, names, remaining.tolist())


def new_mlnt(config, network, num_synthetic, **kwargs):
    """Returns the `MLNT` model that the flags ask for.

    Args:
      config: a Config.
      network: a Keras network that gives logits.
      num_synthetic: int, M.
      **kwargs: further arguments of `MLNT`.

    Raises:
      ValueError: the network does not fit --fast_weights or --meta_order.
    """
    return MLNT(
        network, num_synthetic=num_synthetic, synthetic=config.synthetic,
        transfer_ratio=config.transfer_ratio, inner_rate=config.inner_rate,
        meta_order=config.meta_order,
        fast_weights=config.fast_weights, meta_every=config.meta_every,
        synthetic_parallelism=config.synthetic_parallelism, inner_reduce=config.inner_reduce,
        update_mode=config.update_mode, seed=config.seed, **kwargs)


def iteration_batches(stage, iteration, targets, neighbor_arguments, num_synthetic):
    """Returns the training batches of an iteration.

    From the second iteration on, a step sees two batches: the meta loss samples all of D, the
    classification loss only D'.

    Args:
      stage: the `Stage`.
      iteration: int, counted from 1.
      targets: the `Targets` of the classification loss.
      neighbor_arguments: dict of keyword arguments for `Stage.batches`, see `find_stage_neighbors`.
      num_synthetic: int, M. Without the meta loss (M = 0) there is only one batch per step.

    Returns:
      tf.data.Dataset.
    """
    epochs = stage.config.epochs
    search_in_batch = stage.config.neighbor_scope == "batch" and num_synthetic > 0

    def batches_of_all(**arguments):
        return stage.batches(epochs, whole_batches=search_in_batch, **neighbor_arguments,
                             **arguments)

    if iteration == 1:
        return batches_of_all(targets=targets)
    batches_of_selected = stage.batches(epochs, targets=targets, stream=1)
    if not num_synthetic:
        return batches_of_selected
    return pipeline.two_streams(batches_of_all(), batches_of_selected)


def meta_settings(config, examples, iteration):
    """Returns the arguments that `MLNT.compile` adds: the meta learning rate and its momentum.

    The meta learning rate (eta) ramps up in the first iteration only. With
    --meta_rate_decay=follow it falls together with the learning rate.
    """
    shape = config.meta_ramp if iteration == 1 else "none"
    ramp_steps = round(config.ramp_epochs * examples.steps_per_epoch)
    rate = schedules.Ramp(config.meta_rate, ramp_steps, shape=shape)
    if config.meta_rate_decay == "follow":
        learning_rate = learning_rate_schedule(config, examples.steps_per_epoch, config.epochs)
        rate = schedules.StepDecay(rate, learning_rate.boundary)
    return {"meta_rate": rate, "meta_momentum": config.meta_momentum}


def warn_if_the_baseline_is_better(baseline, exported):
    """Logs a warning if cross entropy has a higher validation accuracy than the exported network.

    Args:
      baseline: the `Stage` of cross entropy.
      exported: the `Candidate` to export.
    """
    simpler = select([Candidate(baseline, "teacher"), Candidate(baseline, "student")])
    if simpler.validation_accuracy <= exported.validation_accuracy:
        return
    name, method = "Cross entropy", "cross_entropy"
    if simpler.network == "teacher":
        name, method = "The EMA of cross entropy", "cross_entropy_ema"
    logging.warning(
        "%s reaches %.1f %% validation accuracy, but the exported network (%s %s) only %.1f %%. "
        "Train longer, or use --method=%s.", name, 100 * simpler.validation_accuracy,
        exported.stage.name, exported.network, 100 * exported.validation_accuracy, method)
