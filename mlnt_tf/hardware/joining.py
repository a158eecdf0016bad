"""Waits for the other workers of a run before TensorFlow does.

TensorFlow waits for minutes without a message, and ignores signals meanwhile.
"""

import contextlib
import errno
import socket
import time

from absl import logging

from mlnt_tf.config import UserError, WorkerLost

NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
REPORT_AFTER = 15.0  # Seconds until missing workers are logged.
POLL_SECONDS = 0.3  # Pause between two rounds of connections.


def wait_for_workers(workers, worker, *, timeout, report_after=REPORT_AFTER):
    """Listens at this worker's address until every other worker listens at its own.

    After `report_after` seconds, it logs which workers are missing. The port is free again at the
    end, so that TensorFlow can listen at it.

    Args:
      workers: sequence of str, host:port of every worker.
      worker: int, the index of this process.
      timeout: float, seconds.
      report_after: float, seconds.

    Raises:
      UserError: this worker cannot listen at its port.
      WorkerLost: a worker is still missing after the timeout.
    """
    start = time.monotonic()
    missing = {index: "" for index in range(len(workers)) if index != worker}
    is_reported = False
    with _listen(workers[worker], worker) as listener:
        while True:
            _accept_all(listener)
            for index in list(missing):
                missing[index] = _try_to_connect(workers[index])
                if not missing[index]:
                    del missing[index]
            if not missing:
                return
            elapsed = time.monotonic() - start
            if elapsed > timeout:
                raise WorkerLost(
                    f"After {timeout:g} s, {_describe(missing, workers)} has not joined. Start "
                    "every worker with the same command, correct the addresses in TF_CONFIG, or "
                    "raise --worker_timeout.")
            if elapsed > report_after and not is_reported:
                is_reported = True
                # Workers other than the chief log errors only.
                logging.error("Waiting for %s. The run ends after %g s (--worker_timeout).",
                              _describe(missing, workers), timeout)
            time.sleep(POLL_SECONDS)


def cannot_listen(worker, address):
    """Returns the UserError of a worker whose address is not usable."""
    return UserError(f"TF_CONFIG gives worker {worker} the address {address}, at which it cannot "
                     "listen. The port is taken, or the address belongs to another host. Use a "
                     "free port of this host.")


def _describe(missing, workers):
    """Returns "worker 1 (host:port: reason), worker 2 (…)"."""
    return ", ".join(f"worker {index} ({workers[index]}: {reason})"
                     for index, reason in missing.items())


def _split(address):
    """Returns (host, port) of host:port. An IPv6 address may have brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _listen(address, worker):
    """Yields a socket that listens at the port of an address. Raises UserError."""
    _, port = _split(address)
    both_families = {}
    if socket.has_dualstack_ipv6():
        both_families = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        try:
            listener = socket.create_server(("", port), backlog=64, **both_families)
        except OSError as error:
            if error.errno not in NO_IPV6:
                raise
            listener = socket.create_server(("", port), backlog=64)
    except (OSError, OverflowError) as error:
        raise cannot_listen(worker, address) from error
    listener.setblocking(False)
    with listener:
        yield listener


def _accept_all(listener):
    """Accepts and closes the connections of other workers, so that their number is not limited."""
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def _try_to_connect(address):
    """Returns why a connection to an address fails, a str, or an empty str if it succeeds."""
    try:
        socket.create_connection(_split(address), timeout=1.0).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    except UnicodeError:  # The host's name is not one that can be looked up.
        return "the host's name is not valid"
    return ""
