"""The choice of the network to export."""

import typing


class Candidate(typing.NamedTuple):
    """A network that may be exported.

    Attributes:
      stage: a finished `Stage`.
      network: str, a name in the `networks` of its model, such as "student".
    """

    stage: typing.Any
    network: str

    @property
    def validation_accuracy(self):
        """float, the validation accuracy at the network's best epoch."""
        return self.stage.result[self.network]["best_validation"]


def last_student(stages):
    """Returns the student of the last stage, the only candidate of most methods."""
    return [Candidate(stages[-1], "student")]


def select(candidates):
    """Returns the candidate with the highest validation accuracy. Ties go to the last one."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.validation_accuracy >= best.validation_accuracy:
            best = candidate
    return best
