"""What every training process sets before it imports numpy: one thread, and an allocator that keeps its memory.

And how it imports: without garbage collection.
"""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of glibc


def prepare_process() -> None:
    """One thread for all that this process and its children compute: two that share a core collapse.

    The three settings of glibc's malloc save page faults, 5-30 % of a training step.
    """
    os.environ.update(ONE_THREAD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28), (M_MMAP_THRESHOLD, 2**25)):
            mallopt(option, value)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection in the block, and never of what it leaves: what is imported and loaded stays.

    A fifth of the time of imports goes to passes over all that they are making.
    """
    was_enabled = gc.isenabled()
    if gc.get_freeze_count():  # then garbage is found at once, and must not be kept for ever
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
