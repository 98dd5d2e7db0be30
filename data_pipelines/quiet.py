"""TensorFlow without its greetings, of which an environment variable silences a part only."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def no_greetings() -> Iterator[None]:
    """Around `import tensorflow`: what native code prints on the standard error is dropped; what is raised is not."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of what it would say later
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # without AVX-512 it turns no bytes, and says so each time
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
