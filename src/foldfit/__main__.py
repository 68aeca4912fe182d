"""`python -m foldfit`."""

import sys

from foldfit.cli import main

sys.exit(main())
