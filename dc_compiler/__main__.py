"""``python -m dc_compiler`` is the command ``dcc``."""

import sys

from dc_compiler.cli import main

sys.exit(main())
