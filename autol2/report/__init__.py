"""The report on a study: tables, figures and a page that can be answered for."""

import contextlib
import os
import sys

if "MPLBACKEND" in os.environ and "matplotlib" not in sys.modules:
    # As inherited from Jupyter, whose backend need not be installed where the report is made:
    # matplotlib would refuse to be imported, though figures here need no backend at all.
    _backend = os.environ.pop("MPLBACKEND")
    import matplotlib

    os.environ["MPLBACKEND"] = _backend
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
