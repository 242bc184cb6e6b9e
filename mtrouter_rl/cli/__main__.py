"""`python -m mtrouter_rl.cli`: the command line without the installed script."""

import sys

from mtrouter_rl.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
