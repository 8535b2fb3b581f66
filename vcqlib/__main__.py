"""`python -m vcqlib …` is `vcq …`."""

import sys

from .cli.app import main

sys.exit(main())
