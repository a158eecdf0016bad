"""The choice of the network to export."""

import typing

from mlnt_tf.files import artifacts


class Candidate(typing.NamedTuple):
    """A network that may be exported.

    Attributes:
      stage: a finished `Stage`.
      network: str, a name in the `networks` of its model, such as "student".
    """

    stage: typing.Any
    network: str

    @property
    def digest(self):
        """str, the digest of what a table computed with the network depends on."""
        network_digest = artifacts.file_digest(self.stage.network_path(self.network))
        return artifacts.digest_of(self.stage.run.inputs, network_digest)

    @property
    def validation_accuracy(self):
        """float, the validation accuracy at the network's best epoch."""
        return self.stage.result[self.network]["best_validation"]


def last_student(stages):
    """Returns the student of the last stage, the only candidate of most methods."""
    return [Candidate(stages[-1], "student")]


def select(candidates):
    """Returns the candidate with the highest validation accuracy. Ties go to the last one."""
    return _last_maximum(candidates, lambda candidate: candidate.validation_accuracy)


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
