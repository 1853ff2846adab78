"""`python -m liveact_app` is the `liveact` command."""

import sys

from liveact_app.cli import main

sys.exit(main())
