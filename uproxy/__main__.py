"""`python -m uproxy` is the same program as `uproxy`."""

import sys

from uproxy.cli import main

sys.exit(main())
