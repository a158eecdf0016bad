"""The spine of a run, from settings to results: data, devices, the method's stages, export and tables."""

import errno
import os

from absl import logging

from mlnt_tf import methods
from mlnt_tf.config import DiskError, NonFiniteLoss, UserError, WorkerLost, flags, unread_flags
from mlnt_tf.data import load
from mlnt_tf.experiment import record, results
from mlnt_tf.experiment.run import open_run
from mlnt_tf.experiment.select import select
from mlnt_tf.hardware import planning, precision
from mlnt_tf.hardware.devices import lost_worker, open_devices
from mlnt_tf.serving import export

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def run(config):
    """Trains as the settings say; a stage that an earlier call finished is read from its directory.

    Args:
      config: a Config.

    Returns:
      dict, the contents of results.json, which is written last; None on a worker that is not the chief.

    Raises:
      UserError: a mistake in the settings, the data or the directory.
      NonFiniteLoss: a loss or weight is not finite.
      DiskError: the output cannot be written.
      WorkerLost: another worker has ended.
    """
    for flag in unread_flags(config):
        logging.warning("%s has no effect on training with --method=%s.", flag, config.method)
    plan, config = plan_run(config)
    devices = open_devices(plan)
    if not devices.is_chief:
        logging.set_verbosity(logging.WARNING)  # the chief logs for all
    compare_workers(config, devices)
    precision.prepare(config)
    method = methods.find(config)
    examples = load.load_examples(config)
    with devices.scope():
        check_network(config, examples, method)
    try:
        with open_run(config, examples, devices) as work:
            found = work.finished_results()
            if found is None:
                results.write_data_tables(work)
                method.train(work)
                found = finish(work, method)
            return found if devices.is_chief else None
    except NonFiniteLoss as error:
        raise NonFiniteLoss(f"{error}: the run stopped. What was saved before is in {config.output_dir}. Lower "
                            "--learning_rate, --meta_rate or --inner_rate, and choose another --output_dir.") from error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskError(f"{config.output_dir} cannot be written ({os.strerror(error.errno)}). What was written before is "
                        "intact. Make room; the same command resumes from the last checkpoint.") from error
    except Exception as error:
        lost = lost_worker(error, devices)
        if not lost:
            raise
        raise WorkerLost(f"{lost} has ended, so worker {devices.worker} stops. The same command on every worker resumes "
                         "from the last checkpoint.") from error


def plan_run(config):
    """Plans the devices and resolves every "auto": with the recorded value if the run was begun before.

    Returns:
      (DevicePlan, resolved Config).

    Raises:
      UserError: the settings cannot run here, or --output_dir holds another run.
    """
    adopted = record.adopt(config, record.find_recorded(config))
    try:
        plan = planning.plan_devices(adopted)
        return plan, precision.resolve(adopted, plan)
    except UserError as error:
        if adopted == config:
            raise
        here = precision.resolve(config, planning.plan_devices(config))
        differing = [f"--{name}={getattr(adopted, name)} (here auto is {getattr(here, name)})"
                     for name in record.RESOLVED if getattr(adopted, name) != getattr(here, name)]
        if not differing:
            raise
        raise UserError(f"--output_dir={config.output_dir} holds a run begun with {', '.join(differing)}, which cannot "
                        f"run here: {error}") from error


def compare_workers(config, devices):
    """Raises UserError on every worker unless all have the chief's resolved settings."""
    mine = flags.identity_lines(config)
    chief = devices.text_of_chief("\n".join(mine)).split("\n")
    different = [f"{theirs} on worker 0, {line} on worker {devices.worker}"
                 for theirs, line in zip(chief, mine) if theirs != line]
    if not devices.any(bool(different)):
        return
    reason = "; ".join(different) or "another worker differs from the chief and names the flags"
    raise UserError(f"The workers of one run need the same settings ({reason}). Start each with the same flags, and set "
                    "what the machines choose differently.")


def check_network(config, examples, method):
    """Builds the network once and lets the method inspect it, so that a misfit is reported before any training.

    Raises:
      UserError: the network cannot be built, or cannot be trained as the flags ask.
    """
    network = examples.new_network(config)
    if method.check:
        method.check(config, examples, network)


def finish(work, method):
    """Exports the selected network and writes the tables and results.json. Returns the results."""
    best = select(method.candidates(work.stages))
    export.export_saved_model(best.stage.load_network(best.network), work.path / "saved_model",
                              preprocess=work.examples.preprocess, class_names=work.examples.class_names)
    found = results.write_suspects_and_summarize(work, best)
    work.finish(found)
    return found
