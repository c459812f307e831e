"""What the fork server imports once, so that its children start in milliseconds.

Nothing of it is ever freed. So the garbage collector is told to leave it alone, while it is loaded and after: to look
through it time and again costs a child some percent of its time, and copies the memory that it shares with the others.
"""

import gc

gc.disable()
try:
    from lvg_data import kernels, steps  # noqa: F401
finally:
    gc.freeze()
    gc.enable()
