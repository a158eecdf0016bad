"""The choice of the network to export."""

import types

from mlnt_tf.experiment.select import Candidate, last_student, select


def stage(name, **accuracies):
    return types.SimpleNamespace(name=name, result={
        network: {"best_validation": accuracy} for network, accuracy in accuracies.items()})


def test_the_highest_validation_accuracy_is_selected():
    first, second = stage("1", student=.7, teacher=.9), stage("2", student=.8, teacher=.6)
    found = select([Candidate(one, network) for one in (first, second) for network in ("student", "teacher")])
    assert found == Candidate(first, "teacher")


def test_ties_go_to_the_last_candidate():
    """Within an iteration to the teacher, between iterations to the later one."""
    first, second = stage("1", student=.9, teacher=.9), stage("2", student=.9, teacher=.8)
    candidates = [Candidate(first, "student"), Candidate(first, "teacher"), Candidate(second, "student")]
    assert select(candidates[:2]).network == "teacher"
    assert select(candidates).stage is second


def test_by_default_the_student_of_the_last_stage_is_exported():
    stages = [stage("cross entropy", student=.9), stage("forward", student=.8, teacher=.9)]
    assert select(last_student(stages)) == Candidate(stages[1], "student")
