"""Workers wait for each other with a message and a timeout, and can be interrupted."""

import socket
import threading

import pytest

from mlnt_tf.config import UserError, WorkerLost
from mlnt_tf.hardware import planning
from mlnt_tf.hardware.joining import wait_for_workers

import tiny


@pytest.fixture
def addresses():
    return [f"127.0.0.1:{port}" for port in tiny.free_ports(2)]


def test_a_worker_that_does_not_start_is_named_and_given_up(addresses, caplog):
    with pytest.raises(WorkerLost, match=f"worker 1 \\({addresses[1]}: Connection refused\\) has "
                                         "not joined.*--worker_timeout"):
        wait_for_workers(addresses, 0, timeout=0.5, report_after=0.0)
    assert f"Waiting for worker 1 ({addresses[1]}: Connection refused)" in caplog.text


def test_a_host_that_does_not_resolve_is_the_reason(addresses):
    workers = [addresses[0], "no-such-host.invalid:1234"]
    with pytest.raises(WorkerLost, match="no-such-host.invalid:1234: .*[Nn]ame"):
        wait_for_workers(workers, 0, timeout=0.0)


def test_workers_that_start_at_different_times_meet(addresses):
    both_joined = threading.Event()

    def join_later():
        wait_for_workers(addresses, 1, timeout=10.0)
        # TensorFlow's server listens at the port from now on.
        with socket.create_server(("", int(addresses[1].rpartition(":")[2]))):
            assert both_joined.wait(10.0)

    other = threading.Timer(0.3, join_later)
    other.start()
    wait_for_workers(addresses, 0, timeout=10.0)
    both_joined.set()
    other.join()


def test_a_port_that_is_taken_is_reported(addresses):
    with (socket.create_server(("", int(addresses[0].rpartition(":")[2]))),
          pytest.raises(UserError, match=f"worker 0 the address {addresses[0]}, at which it")):
        wait_for_workers(addresses, 0, timeout=1.0)


@pytest.mark.parametrize("text, reason", [
    ('{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}', "host:port"),
    ('{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "lacks 'worker'"),
    ('{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}',
     "workers only"),
    ("[]", "must be")])
def test_other_forms_of_tf_config_are_refused_in_one_line(text, reason):
    with pytest.raises(UserError, match=reason) as caught:
        planning.read_cluster(text)
    assert "\n" not in str(caught.value)
