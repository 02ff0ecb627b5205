"""What a fleet does to its collector after an outage: `python -m benchmarks.fleet`.

200 agents, two hours without a collector, then one that serves ten times what they send in quiet
times and refuses the rest. Two fleets: as the agent is, and as it would be without a random start,
without a slow one and without regard for refusals (retries with backoff alone). Rates are bytes a
second; the steady rate is that of the drain, after the ramp. `late` is of traces and logs that are
admitted after their queue is back. Time is fake, so the numbers are the same everywhere.
"""

import argparse
import logging

from edge_agent.exporter.pace import Pace
from tests.fakes import clock, fleet


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 agents, 10 minutes")
    parser.add_argument("--capacity", type=float, default=10.0, help="in multiples of quiet times")
    arguments = parser.parse_args()
    logging.disable()
    agents, outage_s = (10, 600.0) if arguments.quick else (200, 7200.0)
    print(f"{'fleet':8} {'peak':>9} {'steady':>9} ratio refused {'drained s':>9} {'late s':>7}")
    for name, pace in (("agent", Pace), ("naive", fleet.Eager)):
        seen = clock.run(fleet.outage(agents, outage_s, capacity=arguments.capacity, pace=pace))
        assert seen.left == 0
        assert seen.out_of_order == 0
        print(
            f"{name:8} {seen.peak_rate:9.0f} {seen.steady_rate:9.0f}"
            f" {seen.peak_rate / seen.steady_rate:5.2f} {seen.refused:7}"
            f" {seen.drained_in_s:9.0f} {seen.late_s:7.1f}"
        )


if __name__ == "__main__":
    main()
