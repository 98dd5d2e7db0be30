"""A training run: the loop, its step, the state it starts from and carries, optimisers, the feed of batches."""

import data_pipelines  # noqa: F401  first, as it imports tensorflow without its greetings
