"""Every option of a run with its default, and the pieces that recipes are made of."""
