"""One run at work: its directory, and what a method needs to train in it."""

import contextlib
import pathlib

from mlnt_tf.config import UserError, flags
from mlnt_tf.experiment import record
from mlnt_tf.experiment.stage import Stage
from mlnt_tf.files import artifacts, atomic, lock


class Run:
    """What a method's `train(run)` works with.

    Attributes:
      config: the resolved Config.
      examples: the `Examples` it trains, validates and tests on.
      devices: the open `Devices`.
      path: pathlib.Path, the directory this process writes to.
      stages: list of the stages begun so far, in order.
      report: dict, what the method adds to results.json.
    """

    def __init__(self, config, examples, devices, path):
        self.config = config
        self.examples = examples
        self.devices = devices
        self.path = path
        self.stages = []
        self.report = {}
        train = examples.train
        self.inputs = artifacts.digest_of(record.identity(config), train.ids, train.labels)

    def stage(self, name):
        """Opens the next stage, in a directory of its own, where an interrupted call left it."""
        self.stages.append(Stage.open(self, name))
        return self.stages[-1]

    def training_images(self):
        """Returns the training images without augmentation, in order, in batches."""
        return self.examples.batches(self.examples.train, self.config, multiple=self.devices.replicas)

    def finished_results(self):
        """Returns the results if the run is finished, else None."""
        return artifacts.read_json(self.path / record.RESULTS_FILE, inputs=record.identity(self.config))

    def finish(self, results):
        """Writes results.json: the run is finished."""
        artifacts.write_json(self.path / record.RESULTS_FILE, results, inputs=record.identity(self.config))


@contextlib.contextmanager
def open_run(config, examples, devices):
    """Takes the lock of --output_dir, then looks inside and records the settings. Yields a Run.

    The chief writes to --output_dir. Other workers write to a temporary copy that is deleted at the end.

    Raises:
      UserError: the directory cannot be written, another process uses it, or it holds another run.
    """
    output_dir = pathlib.Path(config.output_dir)
    with contextlib.ExitStack() as held:
        if devices.is_chief:
            try:
                output_dir.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock.hold_lock(output_dir))
                record.find_recorded(config)  # again: another run may have begun since the first look
                atomic.write_text(output_dir / record.FLAGS_FILE, flags.flag_file(config))
            except OSError as error:
                raise UserError(f"--output_dir={output_dir} cannot be written ({error.strerror}). Choose another "
                                "directory.") from error
        yield Run(config, examples, devices, held.enter_context(devices.directory(output_dir)))
