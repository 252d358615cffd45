"""NumPy is told how many threads its products have, and nobody else is."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
from sttd.host import blas
seen = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            seen.append(os.environ.get("OPENBLAS_NUM_THREADS"))
sys.meta_path.insert(0, Watch())
blas.import_numpy()
print(seen, os.environ.get("OPENBLAS_NUM_THREADS"), "numpy" in sys.modules)
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "['1'] None True"), ("3", "['3'] 3 True")])
def test_the_setting_is_there_while_numpy_is_imported_and_the_users_own_stays(given, expected):
    environ = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}
    environ |= {"OPENBLAS_NUM_THREADS": given} if given else {}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == expected
