"""`python -m runstore.cli` is `runstore`."""

import sys

from runstore.cli import main

sys.exit(main())
