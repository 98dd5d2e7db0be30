"""A training run: the loop, its step, the state it starts from and carries, optimisers, the feed of batches."""
