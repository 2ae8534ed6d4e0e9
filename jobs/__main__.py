"""`python -m jobs NAME`: the same as `sluice NAME`."""

from jobs.cli import main
from jobs.ending import leave

leave(main())
