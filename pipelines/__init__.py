"""The Beam side: transforms around `lvg_data.steps`, the whole build, and the command line."""
