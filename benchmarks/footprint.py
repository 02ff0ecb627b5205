"""What each import of the agent costs in memory: `python -m benchmarks.footprint`.

Every row is a fresh interpreter that imports asyncio and then the module; the rent is the
difference to asyncio alone, the median of five, from /proc/self/smaps_rollup (kernel,
Documentation/filesystems/proc.rst). Private memory is what the device really loses: RSS counts
pages of shared libraries too.
"""

import argparse
import statistics
import subprocess
import sys

# What an agent with a plain configuration imports beside asyncio, and what it could.
MODULES = (
    "ssl", "argparse", "json", "ctypes", "datetime", "httptools", "ngh2", "psutil", "yaml",
    "isal.isal_zlib", "lmdb", "edge_agent.ring.opening", "hashlib", "ipaddress", "edge_agent.agent",
    "grpc", "google.protobuf",
)  # fmt: skip
_PRINT_KB = """
fields = dict(line.split(None, 1) for line in open('/proc/self/smaps_rollup') if ':' in line[:20])
kb = lambda name: int(fields[name].split()[0])
print(kb('Rss:'), kb('Private_Clean:') + kb('Private_Dirty:'))
"""


def memory_kb(imports: str, runs: int) -> tuple[float, float]:
    """(RSS, private) of a fresh interpreter after `imports`, median of `runs`."""
    measured = []
    for _ in range(runs):
        code = f"import {imports}\n{_PRINT_KB}"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        measured.append([int(number) for number in out.stdout.split()])
    rss, private = zip(*measured, strict=True)
    return statistics.median(rss), statistics.median(private)


def rents(modules: tuple[str, ...], runs: int) -> dict[str, tuple[float, float]]:
    """(RSS, private) in KiB that each module adds to asyncio; `asyncio` itself stands first."""
    base = memory_kb("asyncio", runs)
    table = {"asyncio": base}
    for module in modules:
        rss, private = memory_kb(f"asyncio, {module}", runs)
        table[module] = (rss - base[0], private - base[1])
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run, two modules")
    quick = parser.parse_args().quick
    print(f"{'import':20} {'RSS KiB':>9} {'private KiB':>12}")
    for module, (rss, private) in rents(
        MODULES[:2] if quick else MODULES, 1 if quick else 5
    ).items():
        print(f"{module:20} {rss:>9.0f} {private:>12.0f}")


if __name__ == "__main__":
    main()
