"""Decoded examples kept in memory, as far as it allows."""

import logging
import os
import threading

import numpy as np

SHARE = 0.5  # of the memory that is free when the first example comes


class Cache(dict):
    """{index: (image, label)} of as many examples as fit; those that come later are not kept.

    limit: most bytes of the arrays together, None until the first example; bytes: how many they are.
    """

    def __init__(self, name: str, limit: int | None = None):
        super().__init__()
        self.name, self.limit, self.bytes = name, limit, 0
        self._full, self._lock = False, threading.Lock()

    def keep(self, index: int, image: np.ndarray, label: np.ndarray) -> None:
        """Keeps an example if there is room; the first time that there is none, the log says so."""
        size = image.nbytes + label.nbytes
        with self._lock:
            if self.limit is None:
                self.limit = int(SHARE * free_memory())
            if index in self:
                return
            if self.bytes + size > self.limit:
                if not self._full:
                    logging.warning(
                        "data.cache: %d decoded examples of %s fill %.1f GB, half of the memory that was free; "
                        "the others are decoded every time",
                        *(len(self), self.name, self.bytes / 1e9),
                    )
                self._full = True
                return
            self.bytes += size
            self[index] = image, label


def free_memory() -> int:
    """Bytes that this process can still get, of the machine's memory and of its container's (cgroup version 2)."""
    try:
        with open("/proc/meminfo") as file:
            free = int(next(line for line in file if line.startswith("MemAvailable:")).split()[1]) * 1024
    except OSError:  # no Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/sys/fs/cgroup/memory.max") as most, open("/sys/fs/cgroup/memory.current") as current:
            return min(free, max(int(most.read()) - int(current.read()), 0))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
