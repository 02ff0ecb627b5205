"""What became of a load. Pure."""

import json
import math
from collections import Counter
from dataclasses import dataclass, field

from edge_agent.exporter.retry import Delivered, Denied, Outcome, Rejected, Retry
from edge_agent.load.options import Options
from edge_agent.otlp.status import Code
from edge_agent.settings import one_line

# A deadline that passed is ours: nobody has refused anything.
_CODES = {code.name.lower() for code in Code} - {"ok", "deadline_exceeded"}
# A broken network has many words; these many different ones are kept.
_REASONS = 8
_NO_ROOM = ": too many in flight; raise --connections or lower --rate"


class Latencies:
    """Durations, in buckets a fiftieth wide: the size does not grow with their number."""

    _WIDTH = math.log(1.02)

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[math.ceil(math.log(max(seconds, 1e-6)) / self._WIDTH)] += 1

    def quantile_s(self, share: float) -> float | None:
        """The seconds within which `share` of them (0 to 1) were over; None without any."""
        left = math.ceil(share * self._counts.total())
        for bucket, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return math.exp(bucket * self._WIDTH)
        return None


@dataclass(slots=True)
class Report:
    """Items, but for `requests`: sent = accepted + refused + failed, once all is over."""

    requests: int = 0
    sent: int = 0
    accepted: int = 0
    not_sent: int = 0
    elapsed_s: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)

    def count(self, outcome: Outcome, items: int, latency_s: float) -> None:
        """One request of `items` was answered, `latency_s` after it was due."""
        match outcome:
            case Delivered():
                rejected = min(max(outcome.rejected_items, 0), items)
                self.accepted += items - rejected
                if rejected:
                    self.refused["partial_success"] += rejected
                self.latencies.add(latency_s)
            case Rejected(code=code) | Denied(code=code):
                self.refused[code] += items
            case Retry(reason=reason):
                code = reason.partition(":")[0]
                if code in _CODES or code.startswith("http_"):
                    self.refused[code] += items
                else:
                    self.fail(reason, items)

    def fail(self, reason: str, items: int) -> None:
        """Nobody has answered for `items`."""
        known = reason in self.failed or len(self.failed) < _REASONS
        self.failed[reason if known else "other reasons"] += items

    @property
    def all_accepted(self) -> bool:
        """Whether something was sent, and all of it and nothing less was taken."""
        return 0 < self.sent == self.accepted and not self.not_sent

    @property
    def rate_per_s(self) -> float:
        """Requests a second that left."""
        return self.requests / self.elapsed_s if self.elapsed_s else 0.0

    def progress(self, rate_per_s: float) -> str:
        """One line of what is known so far; `rate_per_s` is that of late."""
        return (
            f"{self.elapsed_s:.0f}s  sent {self.sent:,}  accepted {self.accepted:,}"
            f"  refused {self.refused.total():,}  failed {self.failed.total():,}"
            f"  not sent {self.not_sent:,}  {rate_per_s:,.0f} requests/s"
        )

    def text(self, asked: Options) -> str:
        """The whole of it, for a person."""
        p50_s, p99_s = self.latencies.quantile_s(0.5), self.latencies.quantile_s(0.99)
        latency = "none was accepted"
        if p50_s is not None and p99_s is not None:
            latency = f"p50 {p50_s * 1000:.1f} ms, p99 {p99_s * 1000:.1f} ms"
        lines = [
            f"sent      {self.sent:,} {asked.noun} in {self.requests:,} requests,"
            f" {self.elapsed_s:.1f} s",
            f"accepted  {self.accepted:,}",
            *_counted("refused ", self.refused),
            *_counted("failed  ", self.failed),
            f"not sent  {self.not_sent:,}{_NO_ROOM if self.not_sent else ''}",
            f"rate      {self.rate_per_s:,.1f} requests a second of {asked.rate_per_s:,}",
            f"latency   {latency}",
        ]
        return "".join(f"{line}\n" for line in lines)

    def json(self, asked: Options) -> str:
        """The whole of it, for a program. Items, but for `requests` and the rates."""
        p50_s, p99_s = self.latencies.quantile_s(0.5), self.latencies.quantile_s(0.99)
        values = {
            "endpoint": str(asked.endpoint),
            "protocol": asked.protocol,
            "signals": list(asked.signals),
            "requests": self.requests,
            "sent": self.sent,
            "accepted": self.accepted,
            "refused": dict(self.refused),
            "failed": dict(self.failed),
            "not_sent": self.not_sent,
            "elapsed_s": round(self.elapsed_s, 3),
            "rate_per_s": round(self.rate_per_s, 3),
            "asked_rate_per_s": asked.rate_per_s,
            "latency_ms": {
                "p50": None if p50_s is None else round(p50_s * 1000, 3),
                "p99": None if p99_s is None else round(p99_s * 1000, 3),
            },
        }
        return json.dumps(values, indent=2) + "\n"


def _counted(title: str, counts: Counter[str]) -> list[str]:
    """A total, and behind it a line for each reason."""
    return [
        f"{title}  {counts.total():,}",
        *(f"          {count:,} {one_line(why)}" for why, count in counts.most_common()),
    ]
