"""`python -m sttd.engine.process`: started by `worker.spawn`, never by hand."""

import os
import sys

from sttd.engine import memory
from sttd.engine.whisper import libraries

# Before numpy is imported, which begins threads.
memory.keep_heap()
libraries.spin_briefly(os.environ)

from sttd.engine.process.child import main  # noqa: E402

main(sys.argv[1:])
