"""How many threads NumPy's matrix products have: the one that asks for them.

OpenBLAS shares a product of some thousand numbers among all cores, whose threads then spin for each other. The products
of a voice detector are that small, and come a thousand times a second: with two threads they take four times as long.
"""

from __future__ import annotations

import os

_VARIABLE = "OPENBLAS_NUM_THREADS"


def import_numpy() -> None:
    """Import NumPy so, unless the user says otherwise; too late where it is imported already.

    The variable is read when the library is loaded. It is taken back, since other libraries have an OpenBLAS too, and
    children of this process an environment.
    """
    given = os.environ.get(_VARIABLE)
    os.environ.setdefault(_VARIABLE, "1")
    try:
        import numpy  # noqa: F401
    finally:
        if given is None:
            del os.environ[_VARIABLE]
