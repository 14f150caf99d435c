"""The report on a study: tables, figures and a page that can be answered for."""

import os
import sys

if "MPLBACKEND" in os.environ and "matplotlib" not in sys.modules:
    try:
        import matplotlib as matplotlib
    except ValueError:  # as inherited from Jupyter, whose backend need not be installed here
        del os.environ["MPLBACKEND"]
