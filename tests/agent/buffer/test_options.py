"""What may be asked of `otel-agent buffer`."""

import pytest

from edge_agent.buffer.options import Options, file_of, options, queue_of
from edge_agent.otlp.signal import Signal
from edge_agent.settings import ConfigError

HELP = "see otel-agent buffer --help"


@pytest.mark.parametrize(
    ("words", "flags", "as_json", "message"),
    [
        ([], {}, False, "what? write otel-agent buffer show|verify|export|import"),
        (["shwo"], {}, False, "shwo is not known; the nearest known is show;"
            " write otel-agent buffer show|verify|export|import"),
        (["x"], {}, False, "x is not known; write otel-agent buffer show|verify|export|import"),
        (["show", "x"], {}, False, f"x is one word too many; {HELP}"),
        (["export", "a", "b"], {}, False, f"b is one word too many; {HELP}"),
        (["export"], {}, False, "export needs a file; write otel-agent buffer export FILE"),
        (["import", ""], {}, False, "import needs a file; write otel-agent buffer import FILE"),
        (["show"], {"--remove": ""}, False, f"--remove goes with export; {HELP}"),
        (["show"], {"--signal": "logs"}, False, f"--signal goes with export and import; {HELP}"),
        (["export", "a"], {}, True, f"--json goes with show and verify; {HELP}"),
        (["show"], {"--path": ""}, False, "--path is empty; write --path DIR"),
        (["export", "a"], {"--signal": "spans"}, False,
            "--signal=spans (command line): not known; write one of metrics, traces, logs"),
        (["export", "a"], {"--format": "jsn"}, False, "--format=jsn (command line): not known;"
            " the nearest known is json; write one of proto, json"),
        (["export", "a"], {"--signal": "logs", "--destination": "adapter"}, False,
            "--destination=adapter (command line): no logs go there; write --destination"
            " collector"),
        (["import", "-"], {}, False,
            "- (standard input) cannot be read twice, as import does; name a file"),
        (["export", "-"], {"--remove": ""}, False,
            "--remove needs a file: what became of standard output cannot be known; name one"),
        (["export", "-"], {"--signal": "metrics"}, False, "- (standard output) takes one queue;"
            " write --signal traces, or --signal metrics --destination collector"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named(
    words: list[str], flags: dict[str, str], as_json: bool, message: str
) -> None:
    """Whole messages."""
    with pytest.raises(ConfigError) as caught:
        options(words, flags, as_json=as_json)
    assert str(caught.value) == message


def test_everything_may_be_said() -> None:
    """--config is read by others."""
    flags = {"--path": "/x", "--config": "/y", "--signal": "METRICS", "--destination": "adapter"}
    asked = options(["export", "f"], {**flags, "--format": "json", "--remove": ""}, as_json=False)
    assert asked == Options(
        "export", "f", "/x", Signal.METRICS, "adapter", "json", remove=True
    )  # fmt: skip
    assert asked.queues == [("adapter", Signal.METRICS)]


@pytest.mark.parametrize(
    ("file", "queue", "expected"),
    [
        ("/usb.d/a.otlp", ("collector", Signal.TRACES), "/usb.d/a.traces.otlp"),
        ("a.b.otlp", ("adapter", Signal.METRICS), "a.b.adapter-metrics.otlp"),
        ("/usb.d/a", ("collector", Signal.LOGS), "/usb.d/a.logs"),
        (".a", ("collector", Signal.LOGS), ".a.logs"),
    ],
)
def test_files_are_named_after_queues(file: str, queue: tuple[str, Signal], expected: str) -> None:
    """And the name says where it goes when it is imported."""
    assert file_of(file, queue) == expected
    assert queue_of(Options("import", expected)) == queue


def test_flags_win_over_the_name_of_a_file() -> None:
    """Where the name says nothing they must say it."""
    named = Options("import", "a.logs.otlp", signal=Signal.TRACES)
    assert queue_of(named) == ("collector", Signal.TRACES)
    both = Options("import", "a.metrics.otlp", destination="adapter")
    assert queue_of(both) == ("adapter", Signal.METRICS)
    same = Options("import", "a.adapter-metrics.otlp", signal=Signal.METRICS)
    assert queue_of(same) == ("adapter", Signal.METRICS)
    with pytest.raises(ConfigError, match=r"^x\.otlp: its name does not say .* write --signal"):
        queue_of(Options("import", "/usb/x.otlp"[5:]))
    with pytest.raises(ConfigError, match="no logs go there"):
        queue_of(Options("import", "a.logs.otlp", destination="adapter"))
