"""`python -m kdaug`: the command line."""

from kdaug.cli import main

raise SystemExit(main())
