"""`python -m sttd`."""

import sys

from sttd.cli import main

sys.exit(main())
