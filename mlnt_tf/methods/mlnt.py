"""--method=mlnt: a warm-up, then iterations of mentor, filter and training (paper section 3.3).

The model is `mlnt_tf.methods.mlnt_model.MLNT`. `train_iteration` performs one iteration, in the
order of that section. The functions below it follow the same order.
"""

import dataclasses
import fractions
import typing

import keras
from absl import logging

from mlnt_tf.config import UserError
from mlnt_tf.data import pipeline
from mlnt_tf.data.mixup import Mixup
from mlnt_tf.data.targets import Targets
from mlnt_tf.experiment.neighborhood import find_stage_neighbors
from mlnt_tf.experiment.repair import repaired_targets, report_repair
from mlnt_tf.experiment.select import Candidate, best_network, select
from mlnt_tf.methods import cross_entropy
from mlnt_tf.methods.elr import ELR
from mlnt_tf.methods.gce import GCE
from mlnt_tf.methods.mlnt_model import MLNT
from mlnt_tf.models.submodels import feature_extractor
from mlnt_tf.training import schedules
from mlnt_tf.training.compile import follow_learning_rate


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
    check_network(config, examples, network, with_samples(config.num_synthetic))


def check_network(config, examples, network, variant):
    """Raises UserError if the network cannot be trained with these flags and this `Variant`."""
    try:
        feature_extractor(network, config.neighbor_features)
    except ValueError as error:
        raise UserError(f"--model={config.model} cannot provide the features of a neighbor search "
                        f"({error}). Choose another model.") from error
    try:
        variant.new_model(config, network, num_examples=len(examples.train))
    except ValueError as error:
        raise UserError(f"--model={config.model} does not fit --fast_weights={config.fast_weights} "
                        f"and --meta_order={config.meta_order} ({error}). Change one of "
                        "them.") from error


@dataclasses.dataclass(frozen=True)
class Variant:
    """What the methods with iterations differ in.

    Attributes:
      new_model: function of (config, network, num_examples=…, **kwargs) that returns a model; the
        other arguments are those of `MLNT`.
      has_meta_loss: bool, whether a step has a meta update, which samples all of the data.
      uses_neighbors: bool, whether it takes labels of neighbors, whose features need a warm-up.
    """

    new_model: typing.Callable
    has_meta_loss: bool
    uses_neighbors: bool


def with_samples(num_synthetic):
    """Returns the `Variant` of MLNT with M synthetic label sets. M = 0 is cross entropy."""
    def new_model(config, network, **kwargs):
        return new_mlnt(config, network, num_synthetic, **kwargs)

    return Variant(new_model, has_meta_loss=num_synthetic > 0, uses_neighbors=num_synthetic > 0)


def train(run):
    """Trains a stage of cross entropy, whose features give the first neighbors, then iterations.

    Without the meta loss (M = 0) no neighbors are needed, and the first iteration is a training
    with cross entropy itself. There is no warm-up then.
    """
    variant = with_samples(run.config.num_synthetic)
    if not variant.uses_neighbors:
        train_iterations(run, None, variant)
        return
    baseline = cross_entropy.train_stage(run)
    train_iterations(run, Candidate(baseline, "student"), variant)
    warn_if_the_baseline_is_better(baseline, select(candidates(run.stages)))


def train_iterations(run, feature_source, variant):
    """Trains --iterations iterations. The best network of each is the mentor of the next.

    Args:
      run: the `Run`.
      feature_source: the `Candidate` whose features give the first neighbors. None if the variant
        uses none.
      variant: `Variant`.
    """
    for iteration in range(1, run.config.iterations + 1):
        stage = run.stage(f"iteration {iteration}")
        if stage.result is None:
            train_iteration(stage, iteration, feature_source, variant)
        feature_source = Candidate(stage, stage.result["mentor"])


def train_iteration(stage, iteration, feature_source, variant):
    """Trains one iteration from the initial weights, and stores its result.

    Args:
      stage: the iteration's `Stage`.
      iteration: int, counted from 1.
      feature_source: the `Candidate` of the stage before, whose features give the neighbors. From
        the second iteration on, it is the mentor as well. None if the first uses no neighbors.
      variant: `Variant`.
    """
    config, examples = stage.config, stage.examples
    stage.directory.mkdir(parents=True, exist_ok=True)

    # 1. The best network of the stage before is loaded. It is not trained any further.
    source_network = None
    if feature_source:
        source_network = feature_source.load()

    # 2. Its features give the neighbors whose labels the meta loss transfers.
    neighbor_arguments, neighbor_report = {}, None
    if variant.uses_neighbors:
        neighbor_arguments, neighbor_report = find_stage_neighbors(
            stage, feature_source, source_network)

    # 3. From the second iteration on it is the mentor: it decides on the labels of D', and its
    # predictions are merged into the teacher's.
    targets, repaired, mentor = Targets.given(examples.train), None, None
    if iteration > 1:
        mentor = source_network
        targets, repaired = repaired_targets(stage, feature_source, mentor)
    statistics = report_repair(stage, repaired)

    # 4. A new student trains on D for the meta loss and on D' for the classification loss.
    teacher_weight = schedules.Ramp(config.lambda_max, config.epochs * examples.steps_per_epoch)

    def new_model(student):
        return variant.new_model(config, student, num_examples=len(examples.train), mentor=mentor,
                                 teacher_weight=teacher_weight)

    ema_ramps = iteration == 1 or config.ema_ramp == "each"
    measured = stage.train_model(
        new_model,
        batches=iteration_batches(stage, iteration, targets, neighbor_arguments, variant),
        ramp_epochs=config.ramp_epochs if ema_ramps else 0,
        meta=meta_settings(config, examples, iteration))

    # 5. The best network by validation accuracy is the next mentor.
    stage.finish({"iteration": iteration, "neighbors": neighbor_report, **statistics, **measured,
                  "mentor": best_network(measured)})


@keras.saving.register_keras_serializable(package="mlnt_tf")
class GceMLNT(GCE, MLNT):
    """`MLNT` with the classification loss of `GCE`."""


@keras.saving.register_keras_serializable(package="mlnt_tf")
class ElrMLNT(ELR, MLNT):
    """`MLNT` with the classification loss of `ELR`."""


CLASSES = {"cross_entropy": MLNT, "gce": GceMLNT, "elr": ElrMLNT}


def new_mlnt(config, network, num_synthetic, *, num_examples=0, **kwargs):
    """Returns the `MLNT` model that the flags ask for.

    Args:
      config: a Config.
      network: a Keras network that gives logits.
      num_synthetic: int, M.
      num_examples: int, the number of training examples.
      **kwargs: further arguments of `MLNT`.

    Raises:
      ValueError: the network does not fit --fast_weights or --meta_order.
    """
    return CLASSES[config.classification_loss](
        network, num_synthetic=num_synthetic, synthetic=config.synthetic,
        transfer_ratio=config.transfer_ratio, inner_rate=config.inner_rate,
        meta_order=config.meta_order, fast_weights=config.fast_weights,
        synthetic_parallelism=config.synthetic_parallelism, inner_reduce=config.inner_reduce,
        **update_settings(config, num_examples), **kwargs)


def update_settings(config, num_examples):
    """Returns the arguments of `MLNT` that do not concern the inner step, and those of its loss."""
    settings = {"meta_every": config.meta_every, "update_mode": config.update_mode,
                "seed": config.seed}
    if config.classification_loss == "gce":
        settings["q"] = config.gce_q
    if config.classification_loss == "elr":
        settings |= {"num_examples": num_examples, "strength": config.elr_lambda,
                     "beta": config.elr_beta}
    return settings


def iteration_batches(stage, iteration, targets, neighbor_arguments, variant):
    """Returns the training batches of an iteration.

    From the second iteration on, a step sees two batches: the meta loss samples all of D, the
    classification loss only D'. Both use the repaired labels, also those of neighbors.

    Args:
      stage: the `Stage`.
      iteration: int, counted from 1.
      targets: the `Targets` of the classification loss.
      neighbor_arguments: dict of keyword arguments for `Stage.batches`, see `find_stage_neighbors`.
      variant: `Variant`. Without a meta loss there is only one batch per step.

    Returns:
      tf.data.Dataset.
    """
    config = stage.config
    search_in_batch = config.neighbor_scope == "batch" and variant.uses_neighbors

    def batches_of_all(targets):
        return stage.batches(config.epochs, whole_batches=search_in_batch, targets=targets,
                             **neighbor_arguments)

    if iteration == 1:
        return batches_of_all(targets)
    mixup = None
    if config.mixup:
        mixup = Mixup(config.mixup, len(stage.examples.class_names))
    batches_of_selected = stage.batches(config.epochs, targets=targets, mixup=mixup, stream=1)
    if not variant.has_meta_loss:
        return batches_of_selected
    return pipeline.two_streams(batches_of_all(Targets(targets.labels)), batches_of_selected)


def meta_settings(config, examples, iteration):
    """Returns the arguments that `MLNT.compile` adds: the meta learning rate and its momentum.

    The meta learning rate (eta) ramps up in the first iteration only. With
    --meta_rate_decay=follow it falls together with the learning rate.
    """
    shape = config.meta_ramp if iteration == 1 else "none"
    ramp_steps = round(config.ramp_epochs * examples.steps_per_epoch)
    rate = schedules.Ramp(config.meta_rate, ramp_steps, shape=shape)
    if config.meta_rate_decay == "follow":
        rate = follow_learning_rate(rate, config, examples.steps_per_epoch, config.epochs)
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
