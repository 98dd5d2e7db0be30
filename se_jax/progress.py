"""What a command says of its progress, on the standard error: short messages, and a line that changes in a terminal."""

import sys
import time

SECONDS = 30  # between two lines where they go into a file


def say(text: str) -> None:
    """Prints a line."""
    print(text, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Minutes and seconds, 2:05, or hours too, 1:00:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class Progress:
    """How much of a work is done, its rate, and the time left: 'evaluated 50/101 images, 6.1 a second, 0:08 left'.

    A terminal sees one line that changes; a file gets a line every half minute, and the last one.
    """

    def __init__(self, what: str, total: int, unit: str = "images", shown: bool = True):
        self.what, self.total, self.unit, self.shown = what, total, unit, shown
        self.begun = self.last = time.monotonic()

    def __call__(self, done: int, more: str = "") -> None:
        """done: so far; more: is added to the line."""
        now = time.monotonic()
        if not self.shown or not done:
            return
        rate, ended = done / max(now - self.begun, 1e-9), done >= self.total
        left = clock(now - self.begun) + " in all" if ended else clock((self.total - done) / rate) + " left"
        line = f"{self.what} {done}/{self.total} {self.unit}, {rate:.1f} a second, {left}{more}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if ended else "", file=sys.stderr, flush=True)
        elif ended or now - self.last >= SECONDS:
            self.last = now
            say(line)
