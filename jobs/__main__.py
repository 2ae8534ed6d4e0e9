"""`python -m jobs NAME`: the same as `sluice NAME`."""

import sys

from jobs.cli import main

sys.exit(main())
