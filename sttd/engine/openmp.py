"""How long the threads of a decode wait for each other before they sleep.

A decode is very many short parallel steps, and between two of them CTranslate2's threads wait for each other, by
libgomp's rules. As long as there are no more threads than cores they spin, far longer than any step takes; else for so
short a time that each step begins by waking threads. And there are more than cores as soon as one more thread has ever
computed anything: the thread that loaded the model, or the worker of a second model. Then base's shape takes twice as
long (`benchmarks throughput`, a row of its own).
"""

from __future__ import annotations

from collections.abc import MutableMapping

# Turns of a loop: what libgomp allows at most with more threads than cores. With fewer it turns 300,000 times by
# default, which is no faster and burns a tenth more (measured on two cores).
SPINS = 1000


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Have threads spin for `SPINS`, however many there are. Whoever has set `OMP_WAIT_POLICY` knows better.

    To be called with `os.environ` before CTranslate2 is imported, for libgomp reads it when it is loaded.
    """
    if "OMP_WAIT_POLICY" in environ:
        return
    environ["OMP_WAIT_POLICY"] = "active"  # lets GOMP_SPINCOUNT hold with more threads than cores
    environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    environ.setdefault("KMP_BLOCKTIME", "1")  # ms: LLVM's OpenMP, which some builds have, would never sleep
