"""Runs a training from settings to results.json: devices, data, the method's stages, export."""

import contextlib
import dataclasses
import re

import tensorflow as tf
from absl import logging

from mlnt_tf import methods
from mlnt_tf.config import (
    DataLost,
    DiskError,
    NonFiniteLoss,
    OutOfMemory,
    UserError,
    WorkerLost,
    flags,
    ineffective_flags,
    recipes,
    unread_flags,
)
from mlnt_tf.data import load
from mlnt_tf.experiment import class_scores, label_issues, record, results, unlabeled
from mlnt_tf.experiment.recipe import resolve_recipe
from mlnt_tf.experiment.run import open_run
from mlnt_tf.experiment.select import select_for_run
from mlnt_tf.files.disk import disk_failure
from mlnt_tf.hardware import planning, precision
from mlnt_tf.hardware.devices import lost_worker, open_devices, out_of_memory
from mlnt_tf.models import applications
from mlnt_tf.models.layers import in_float32
from mlnt_tf.models.saved_network import contains_normalization, write_network
from mlnt_tf.serving import export


def run(config):
    """Trains as the settings ask. Resumes a run that was interrupted.

    Args:
      config: a Config.

    Returns:
      dict, the contents of results.json. None on a worker that is not the chief.

    Raises:
      UserError: a mistake in the settings, the data or the directory.
      NonFiniteLoss: a loss or weight is not finite.
      DiskError: the output cannot be written.
      DataLost: an image can no longer be read.
      OutOfMemory: the host's or a GPU's memory is exhausted.
      WorkerLost: another worker has ended.
    """
    plan, adopted, resolved = plan_run(config)
    if plan.worker > 0:
        logging.set_verbosity(logging.ERROR)  # The chief logs for all workers.
    warn_of_unused_flags(config, adopted)
    precision.log_choices(adopted, plan)
    config = resolved
    devices = open_devices(plan)
    with precision.prepared(config), explain_failures(config, devices):
        compare_workers(config, devices)
        method = methods.find(config)
        examples = load.load_examples(config)
        with devices.scope():
            check_network(config, examples, method)
        with open_run(config, examples, devices) as this_run:
            stored = this_run.finished_results()
            if stored is None:
                results.write_data_tables(this_run)
                this_run.prepare()
                method.train(this_run)
                stored = finish(this_run, method)
            return stored if devices.is_chief else None


def warn_of_unused_flags(config, adopted):
    """Warns about given flags that change nothing for this method or next to other flags.

    Args:
      config: the Config as it was given.
      adopted: see `plan_run`. The method may come from its recipe.
    """
    # What a resumed run has recorded in place of "auto" was not given.
    config = dataclasses.replace(
        adopted, **{name: getattr(config, name) for name in record.RESOLVED})
    for flag in unread_flags(config):
        logging.warning("%s has no effect on training with --method=%s.", flag, config.method)
    for sentence in ineffective_flags(config):
        logging.warning("%s", sentence)


@contextlib.contextmanager
def explain_failures(config, devices):
    """Turns exceptions of a training into ones whose message states the fix.

    Args:
      config: a resolved Config.
      devices: `Devices`.

    Raises:
      NonFiniteLoss, DiskError, DataLost, OutOfMemory, WorkerLost: see `run`. Other exceptions pass
        unchanged.
    """
    try:
        yield
    except NonFiniteLoss as error:
        raise NonFiniteLoss(
            f"The run stopped: {error}. Earlier checkpoints are in {config.output_dir}. "
            "Lower --learning_rate, --meta_rate or --inner_rate, and choose another "
            "--output_dir.") from error
    except UserError:
        raise
    except Exception as error:
        reason = disk_failure(error)
        if reason:
            raise DiskError(
                f"--output_dir={config.output_dir} cannot be written ({reason}). Files written "
                "before are intact. Free some space, or make the directory writable, and run the "
                "same command, which resumes from the last checkpoint.") from error
        file = lost_file(error)
        if file:
            raise DataLost(
                f"{file}. It was readable before. Restore it and run the same command, which "
                "resumes from the last checkpoint.") from error
        if out_of_memory(error):
            raise OutOfMemory(
                "The memory is exhausted. Lower --batch_size, --synthetic_parallelism, "
                "--image_size or --width, and run the command again. Choose another --output_dir, "
                "because the flags of a run cannot change.") from error
        lost = lost_worker(error, devices)
        if not lost:
            raise
        raise WorkerLost(
            f"{lost} has ended, so worker {devices.worker} stops. Run the same command on every "
            "worker, which resumes from the last checkpoint.") from error


def lost_file(error):
    """Returns the path and the reason if TensorFlow can no longer read a file, else None.

    Args:
      error: an exception.
    """
    if not isinstance(error, (tf.errors.NotFoundError, tf.errors.PermissionDeniedError)):
        return None
    found = re.search(r"([^\s;][^\n;]*); (No such file or directory|Permission denied)", str(error))
    if not found:
        return None
    path = found[1].rpartition("}} ")[2]  # Behind the names of TensorFlow's nodes.
    return f"{path} cannot be read ({found[2]})"


def plan_run(config):
    """Applies the recipe, plans the devices and replaces every "auto".

    A resumed run takes the recorded values.

    Args:
      config: a Config.

    Returns:
      (DevicePlan, Config with the recorded values, Config without any "auto").

    Raises:
      UserError: the settings cannot run on this machine, or --output_dir holds another run.
    """
    adopted = resolve_recipe(record.adopt(config, record.find_recorded(config)))
    try:
        plan = planning.plan_devices(adopted)
        return plan, adopted, precision.resolve(adopted, plan)
    except UserError as error:
        if adopted == config:
            raise
        local = precision.resolve(config, planning.plan_devices(config))
        different = [f'--{name}={getattr(adopted, name)} ("auto" gives {getattr(local, name)} on '
                     "this machine)"
                     for name in record.RESOLVED
                     if getattr(adopted, name) != getattr(local, name)]
        if not different:
            raise
        raise UserError(f"--output_dir={config.output_dir} holds a run begun with "
                        f"{', '.join(different)}, and these settings cannot run here: "
                        f"{error}") from error


def compare_workers(config, devices):
    """Raises UserError on every worker unless all workers have the same settings.

    Args:
      config: the resolved Config of this worker.
      devices: `Devices`.
    """
    texts = devices.gather_texts("\n".join(flags.identity_lines(config)))
    chief, *others = [text.split("\n") for text in texts]
    different = [f"{ours} on worker 0, {theirs} on worker {worker}"
                 for worker, lines in enumerate(others, start=1)
                 for ours, theirs in zip(chief, lines) if ours != theirs]
    if different:
        raise UserError(f"The workers of a run need the same settings, but they differ "
                        f"({'; '.join(different)}). Start each with the same flags, and set those "
                        "whose \"auto\" differs between the machines.")


def check_network(config, examples, method):
    """Builds the network once, and lets the method check it before any training.

    Args:
      config: a resolved Config.
      examples: `Examples`.
      method: a `Method`.

    Raises:
      UserError: the network cannot be built, or cannot be trained with these flags.
    """
    label_issues.choose_recipe(config, examples)
    network = examples.new_network(config)
    if config.model == "cnn" and min(examples.preprocess.shape[:2]) > recipes.SMALL_IMAGE // 2:
        logging.warning("--model=cnn sees 9 × 9 pixels at a time and suits tiny images, but these "
                        "have %d × %d. Choose another --model, or --recipe=photos.",
                        *examples.preprocess.shape[:2])
    if contains_normalization(network) and config.normalization != "none":
        raise UserError(f"--model={config.model} returned a saved network, which normalizes its "
                        f"images itself, but --normalization={config.normalization}. Set "
                        "--normalization=none.")
    has_own_weights = ":" in config.model and not applications.is_application(config.model)
    has_random_weights = config.pretrained_weights == "none" and not has_own_weights
    if config.freeze != "none" and has_random_weights:
        logging.warning("--freeze=%s freezes random weights, because --pretrained_weights=none.",
                        config.freeze)
    if method.check:
        method.check(config, examples, network)


def finish(this_run, method):
    """Exports the selected network, and writes the tables and results.json.

    Args:
      this_run: the `Run`, with all stages finished.
      method: a `Method`.

    Returns:
      dict, the contents of results.json.

    Raises:
      UserError: a method of the user's own has trained no stage, or not finished one.
    """
    unfinished = [stage.name for stage in this_run.stages if stage.result is None]
    if not this_run.stages or unfinished:
        reason = f"left the stage {unfinished[0]!r} unfinished" if unfinished else "opened no stage"
        raise UserError(f"--method={this_run.config.method} {reason}. In its "
                        "function `train`, call run.stage(name).train(...) for each stage.")
    best = select_for_run(this_run, method)
    network = in_float32(this_run.complete(best.load(distributed=False)))
    preprocess = this_run.images.preprocess
    write_network(network, this_run.path / "network.keras", normalize=preprocess.normalize)
    export.export_saved_model(network, this_run.path / "saved_model", preprocess=preprocess,
                              class_names=this_run.images.class_names)
    unlabeled.write_predictions(this_run, network)
    summary = results.judge_and_summarize(this_run, best)
    summary["per_class"] = class_scores.score_classes(this_run, best)
    this_run.finish(summary)
    return summary
