"""`python -m init`: the same as `quietwire init`."""

import sys

from init.cli import main

sys.exit(main())
