"""Progress of a long computation in the log."""

import time

from absl import logging

LOG_INTERVAL = 20.0  # seconds


class Progress:
    """Logs how far a long search has come, and how long it will take."""

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self.told = self.began

    def add(self, count):
        self.done += count
        now = time.monotonic()
        if now - self.told > LOG_INTERVAL:
            self.told = now
            share = self.done / self.total
            remaining = (now - self.began) * (1 - share) / share
            logging.info("neighbors: %.0f %%, about %.0f s to go", 100 * share, remaining)
