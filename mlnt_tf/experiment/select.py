"""The choice of the network to export, and of an iteration's mentor."""

import typing


class Candidate(typing.NamedTuple):
    """A network that may be exported: the best one of a finished stage, by its name in `model.networks`."""

    stage: typing.Any
    network: str

    @property
    def validation_accuracy(self):
        """float, at the network's best epoch."""
        return self.stage.result[self.network]["best_validation"]


def last_student(stages):
    """Returns the candidates of a method that exports the student of its last stage."""
    return [Candidate(stages[-1], "student")]


def select(candidates):
    """Returns the candidate with the highest validation accuracy; ties go to the last one listed."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.validation_accuracy >= best.validation_accuracy:
            best = candidate
    return best
