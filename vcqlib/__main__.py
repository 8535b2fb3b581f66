"""`python -m vcqlib …` is `vcq …`."""

import sys

from .cli import main

sys.exit(main())
