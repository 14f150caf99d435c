"""The report on a study: tables, figures, and a page in which every number can be checked."""

import contextlib
import os
import sys

if "MPLBACKEND" in os.environ and "matplotlib" not in sys.modules:
    # The variable may come from Jupyter, whose backend need not be installed here. Importing
    # matplotlib would then fail, although the figures of the report need no backend.
    _backend = os.environ.pop("MPLBACKEND")
    import matplotlib

    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
