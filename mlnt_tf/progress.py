"""Progress of a long computation: amount done, time left, log lines and a terminal's bar."""

import sys
import time

from absl import logging


class Progress:
    """Measures the progress of a computation and estimates the remaining time.

    Args:
      total: number, the amount of work in any unit, for example comparisons or epochs.
      done: number, the amount that was done before, for example by an interrupted process. The
        estimate ignores it.
      interval: float, seconds between two log lines.
    """

    def __init__(self, total, *, done=0, interval=20.0):
        self.total = total
        self.done = done
        self.interval = interval
        self._initially_done = done
        self._started = time.monotonic()
        self._last_line = self._started

    def add(self, amount):
        """Adds to the amount that is done."""
        self.done += amount

    @property
    def elapsed(self):
        """Seconds since the object was created."""
        return time.monotonic() - self._started

    @property
    def remaining(self):
        """Estimated seconds until everything is done, or None before anything is done."""
        done = self.done - self._initially_done
        if done <= 0:
            return None
        return self.elapsed / done * (self.total - self.done)

    @property
    def line_is_due(self):
        """Whether `interval` seconds have passed since the last log line."""
        return time.monotonic() - self._last_line > self.interval

    def restart_interval(self):
        """Counts `interval` from now on, because a line has just been logged."""
        self._last_line = time.monotonic()

    def log_if_due(self, task):
        """Logs the percentage done and the remaining time, at most once per `interval`.

        Args:
          task: str, what is being done.
        """
        if self.line_is_due:
            self.restart_interval()
            logging.info("%s: %3.0f %%  ETA %s", task, 100 * self.done / self.total,
                         format_duration(self.remaining))


class Bar:
    """A progress bar in the last line of a terminal. A log file or a pipe gets nothing.

    Args:
      stream: text file, by default stderr.
    """

    WIDTH = 24  # Characters.
    INTERVAL = 0.2  # Seconds between two drawings.

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self.is_shown = self.stream.isatty()
        self._last = 0.0

    def draw(self, fraction, text):
        """Draws the bar, at most once per INTERVAL.

        Args:
          fraction: float in 0 … 1.
          text: str, one short line that follows the bar.
        """
        now = time.monotonic()
        if not self.is_shown or now - self._last < self.INTERVAL:
            return
        self._last = now
        filled = round(self.WIDTH * fraction)
        self._write(f"\r\x1b[K[{'=' * filled}{' ' * (self.WIDTH - filled)}] {text}")

    def clear(self):
        """Removes the bar, so that a log line can take its place."""
        if self.is_shown and self._last:
            self._last = 0.0
            self._write("\r\x1b[K")

    def _write(self, text):
        self.stream.write(text)
        self.stream.flush()


def format_duration(seconds):
    """Returns a duration in s, min or h, right-aligned in six characters.

    Args:
      seconds: float, or None for an unknown duration.
    """
    if seconds is None:
        text = "?"
    elif seconds < 9.95:
        text = f"{seconds:.1f} s"
    elif seconds < 119.5:
        text = f"{seconds:.0f} s"
    elif seconds < 99.5 * 60:
        text = f"{seconds / 60:.0f} min"
    elif seconds < 9.95 * 3600:
        text = f"{seconds / 3600:.1f} h"
    else:
        text = f"{seconds / 3600:.0f} h"
    return f"{text:>6}"
