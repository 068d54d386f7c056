"""``python -m perkamo COMMAND``, also installed as ``perkamo``."""

import sys

from perkamo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
