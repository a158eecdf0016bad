"""The choice of the network to export."""

import types

from mlnt_tf.experiment.select import Candidate, last_student, select


def new_stage(name, **accuracies):
    """Returns a finished stage with these validation accuracies."""
    result = {network: {"best_validation": accuracy} for network, accuracy in accuracies.items()}
    return types.SimpleNamespace(name=name, result=result)


def test_highest_validation_accuracy_is_selected():
    first = new_stage("1", student=.7, teacher=.9)
    second = new_stage("2", student=.8, teacher=.6)
    candidates = [Candidate(stage, network) for stage in (first, second)
                  for network in ("student", "teacher")]
    assert select(candidates) == Candidate(first, "teacher")


def test_ties_go_to_the_last_candidate():
    """Within an iteration that is the teacher, between iterations the later one."""
    first = new_stage("1", student=.9, teacher=.9)
    second = new_stage("2", student=.9, teacher=.8)
    candidates = [Candidate(first, "student"), Candidate(first, "teacher"),
                  Candidate(second, "student")]
    assert select(candidates[:2]).network == "teacher"
    assert select(candidates).stage is second


def test_default_candidate_is_the_student_of_the_last_stage():
    stages = [new_stage("cross entropy", student=.9), new_stage("forward", student=.8, teacher=.9)]
    assert last_student(stages) == [Candidate(stages[1], "student")]
