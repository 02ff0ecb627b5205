"""The agent, but that a backlog is sent at once after a start: `python -m tests.fakes.eager`.

The random half minute before it is for fleets; who kills an agent every second would never see a
record of the ring sent.
"""

import sys

from edge_agent.__main__ import main
from edge_agent.exporter import pace

if __name__ == "__main__":
    pace.START_WITHIN_S = 0.0
    sys.exit(main())
