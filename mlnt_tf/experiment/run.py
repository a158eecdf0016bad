"""A run in progress: its directory, and what a method needs to train in it."""

import contextlib
import dataclasses
import functools
import pathlib

from mlnt_tf.config import UserError, flags
from mlnt_tf.experiment import data_record, features, record
from mlnt_tf.experiment.head import replace_head
from mlnt_tf.experiment.stage import Stage
from mlnt_tf.files import artifacts, atomic, lock


class Run:
    """The argument of a method's `train(run)`.

    Attributes:
      config: the resolved Config.
      images: the `Examples`, with images.
      examples: the `Examples` that the stages train on. With --freeze=body they have features in
        place of images (see `features.FrozenExamples`).
      devices: the open `Devices`.
      path: pathlib.Path, the directory that this process writes to.
      stages: list of the stages opened so far, in order.
      report: dict, entries that the method adds to results.json.
      inputs: str, the digest of the settings, the training ids and the given labels.
    """

    def __init__(self, config, examples, devices, path):
        self.config = config
        self.images = examples
        self.examples = examples
        self.devices = devices
        self.path = path
        self.stages = []
        self.report = {}
        self.inputs = artifacts.digest_of(record.identity(config), record.data_digest(examples))

    def stage(self, name):
        """Opens the next stage, in its own directory, and resumes it if it was interrupted.

        Args:
          name: str, unique within the run.

        Returns:
          a `Stage`.
        """
        self.stages.append(Stage.open(self, name))
        return self.stages[-1]

    @functools.cached_property
    def features(self):
        """Features of the network's initial weights: dict of split name to float32 array."""
        return features.initial_features(self)

    @functools.cached_property
    def probe(self):
        """The noise-corrected `Probe` on the features of the network's initial weights."""
        return features.fit_run_probe(self)

    def prepare(self):
        """Computes the features that --freeze=body or --initial_head=probe need.

        Raises:
          UserError: there are several workers.
        """
        frozen, probed = self.config.freeze == "body", self.config.initial_head == "probe"
        if (frozen or probed) and self.devices.workers > 1:
            flag = "--freeze=body" if frozen else "--initial_head=probe"
            raise UserError(f"{flag} computes features in one process, but there are "
                            f"{self.devices.workers} workers. Unset TF_CONFIG, or omit the flag.")
        if frozen:
            self.examples = features.freeze_body(self)
        if probed:
            features.train_probe_stages(self)

    def new_network(self):
        """Builds the network that every stage trains, with its initial weights."""
        network = self.examples.new_network(self.config)
        if self.config.initial_head == "probe":
            return replace_head(network, self.probe)
        return network

    def complete(self, network):
        """Returns the network of a stage, from preprocessed images to logits."""
        return self.examples.complete(network)

    def training_images(self):
        """Returns the training images without augmentation, in order, in batches."""
        return self.examples.batches(self.examples.train, self.config,
                                     multiple=self.devices.replicas)

    def finished_results(self):
        """Returns the results if the run has finished, else None."""
        return record.read_results(self.path, self.config)

    def finish(self, results):
        """Writes results.json, which marks the run as finished."""
        artifacts.write_json(self.path / record.RESULTS_FILE, results,
                             inputs=record.identity(self.config))


@contextlib.contextmanager
def open_run(config, examples, devices):
    """Takes the lock of --output_dir, checks its contents and records the settings. Yields a Run.

    The chief writes to --output_dir. Other workers write to a temporary copy that is deleted at the
    end.

    Args:
      config: a resolved Config.
      examples: `Examples`.
      devices: `Devices`.

    Raises:
      UserError: the directory cannot be written, another process uses it, or it holds another run.
    """
    output_dir = pathlib.Path(config.output_dir)
    with contextlib.ExitStack() as stack:
        if devices.is_chief:
            try:
                output_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock.hold_lock(output_dir))
                # Another run may have begun in the directory before this one took the lock.
                recorded = record.find_recorded(config)
                data_record.check_data(config, examples)
                atomic.remove_scratch_files(output_dir)
                _record_flags(recorded, config)
                data_record.write_data(config, examples)
            except OSError as error:
                raise UserError(f"--output_dir={output_dir} cannot be written ({error.strerror}). "
                                "Free some space, make the directory writable, or choose "
                                "another one.") from error
        directory = stack.enter_context(devices.directory(output_dir))
        yield Run(config, examples, devices, directory)


def _record_flags(recorded, config):
    """Writes flags.txt. A resumed run keeps the first record, but updates the path of its data.

    Args:
      recorded: the Config of `find_recorded`, or None.
      config: a resolved Config.
    """
    if recorded is not None:
        # A run of an earlier version recorded "auto".
        if not flags.differing(recorded, config) and not record.has_moved(recorded, config):
            return
        config = dataclasses.replace(config, explicit=frozenset(record.explicit_flags(config)))
    path = pathlib.Path(config.output_dir) / record.FLAGS_FILE
    atomic.write_text(path, flags.flag_file(config))
