"""`python -m tests.mutations`."""

from tests.mutations.run import main

raise SystemExit(main())
