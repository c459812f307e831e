"""Dataset cards: data only."""
