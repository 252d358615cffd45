"""`python -m sttd.engine.process`: started by `worker.spawn`, never by hand."""

import sys

from sttd.engine.process.child import main

main(sys.argv[1:])
