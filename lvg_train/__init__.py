"""Training on the shards; the only package that imports torch."""
