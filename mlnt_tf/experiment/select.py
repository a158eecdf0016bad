"""The choice of the network to export, and to rank the labels with."""

import typing

import numpy as np
from absl import logging

from mlnt_tf.files import artifacts
from mlnt_tf.models import predict


FEW_IMAGES = 100  # Fewer validation images have a standard error of 5 points or more.


class Candidate(typing.NamedTuple):
    """A network that may be exported.

    Attributes:
      stage: a finished `Stage`.
      network: str, a name in the `networks` of its model, such as "student".
      epoch: "best", by validation accuracy, or "last".
    """

    stage: typing.Any
    network: str
    epoch: str = "best"

    @property
    def name(self):
        """str, for logs and results."""
        return f"{self.stage.name} {self.network}"

    @property
    def digest(self):
        """str, the digest of what a table computed with the network depends on."""
        network_digest = artifacts.file_digest(self.stage.network_path(self.network, self.epoch))
        return artifacts.digest_of(self.stage.run.inputs, network_digest)

    @property
    def validation_accuracy(self):
        """float, the validation accuracy at the network's epoch."""
        return self.stage.result[self.network][f"{self.epoch}_validation"]

    def load(self, *, distributed=True):
        """Returns the network, on every device or only on one."""
        return self.stage.load_network(self.network, self.epoch, distributed=distributed)


def last_student(stages):
    """Returns the student of the last stage, the only candidate of most methods."""
    return [Candidate(stages[-1], "student")]


def select(candidates):
    """Returns the candidate with the highest validation accuracy. Ties go to the last one."""
    return _last_maximum(candidates, lambda candidate: candidate.validation_accuracy)


def select_for_run(run, method):
    """Returns the `Candidate` that --select asks for.

    - "best": the method's candidate with the highest validation accuracy, as in the paper.
    - "auto": see `select_by_standard_error`, over all stages. The comparisons are added to
      `run.report`.
    - "last": the last of the method's candidates, at its last epoch.

    Args:
      run: the `Run`, with all stages finished.
      method: a `Method`.
    """
    if run.config.select == "last":
        return method.candidates(run.stages)[-1]._replace(epoch="last")
    if run.config.select == "best":
        return select(method.candidates(run.stages))
    best_of_stages = [
        select([Candidate(stage, name) for name in ("student", "teacher") if name in stage.result])
        for stage in run.stages]
    labels = run.examples.validation.labels
    batches = run.examples.batches(run.examples.validation, run.config,
                                   multiple=run.devices.replicas)
    correct = [predict.predict_probabilities(candidate.load(), batches).argmax(axis=1) == labels
               for candidate in best_of_stages]
    costs_more = [candidate.stage.costs_more_than_seconds for candidate in best_of_stages]
    index, comparisons = select_by_standard_error(correct, costs_more)
    for comparison, candidate in zip(comparisons, best_of_stages[1:]):
        comparison["network"] = candidate.name
    run.report["selection"] = comparisons
    selected = best_of_stages[index]
    logging.info("validation images correct: %s", ", ".join(
        f"{candidate.name} {100 * right.mean():.1f} %"
        for candidate, right in zip(best_of_stages, correct)))
    logging.info("selected: %s. A stage that takes longer than seconds must be better by one "
                 "standard error.", selected.name)
    if len(labels) < FEW_IMAGES:
        logging.warning("%d validation images hardly distinguish networks. Raise "
                        "--validation_fraction, or add labeled images.", len(labels))
    return selected


def select_by_standard_error(correct, costs_more):
    """Compares networks in order of their cost, by the one-standard-error rule.

    A costlier network replaces the selected one only if its validation accuracy is higher by more
    than one standard error of the paired difference between equally good networks. That error is
    sqrt(d) / n for n images, if only one of the two is right on d of them. So a single image never
    decides.

    Args:
      correct: list of bool [n], whether each network predicts each validation image correctly. The
        cheapest network comes first.
      costs_more: list of bool, whether each network costs more than those before it. One that does
        not only has to be as good: later heads correct for the noise, and 150 images cannot tell.

    Returns:
      (index of the selected network, list of one dict for each network after the first: its "gain"
      over the network selected so far and its "standard_error", both fractions, and whether it was
      "selected").
    """
    index, comparisons = 0, []
    for challenger in range(1, len(correct)):
        num_images = len(correct[challenger])
        gain = float(correct[challenger].sum() - correct[index].sum()) / num_images
        error = float(np.sqrt((correct[challenger] != correct[index]).sum())) / num_images
        is_better = gain > error if costs_more[challenger] else gain >= 0
        comparisons.append({"gain": gain, "standard_error": error, "selected": is_better})
        if is_better:
            index = challenger
    return index, comparisons


def best_network(measured):
    """Returns the name of a stage's network with the highest validation accuracy.

    Ties go to the last one, so the teacher wins over the student.

    Args:
      measured: dict, see `Stage.measure`.
    """
    return _last_maximum(list(measured["validation"]),
                         lambda name: measured[name]["best_validation"])


def _last_maximum(items, key):
    return max(reversed(items), key=key)
