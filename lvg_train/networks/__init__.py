"""The four networks of "Generating Long Videos of Dynamic Scenes" (Brooks et al. 2022), one a file.

Parameters keep the names of the release, so that its checkpoints map by name.
"""
