"""Raw long videos to multi-resolution WebDataset shards: the code that needs neither Beam nor torch."""
