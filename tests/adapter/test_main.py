"""The program as a user runs it: exit codes, signals, kill -9, a full disk, TLS, two at once."""

import gzip
import json
import logging
import os
import resource
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import edge_agent
from adapter.__main__ import main
from adapter.config import SETTINGS
from adapter.database import FILE_NAME, Database
from adapter.run import locked
from edge_agent.otlp.wire import bytes_field
from edge_agent.stop import StopRequest
from tests.adapter.build import gauge, point, request, sample_body
from tests.fakes.certificates import Authority
from tests.fakes.programs import ROOT, Adapter, eventually, free_port, get


def post(
    url: str,
    body: bytes,
    context: ssl.SSLContext | None = None,
    token: str | None = None,
    coding: str = "identity",
) -> int:
    """The status of a POST of `body`."""
    headers = {"content-type": "application/x-protobuf", "content-encoding": coding}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    asked = urllib.request.Request(f"{url}/v1/metrics", body, headers)
    try:
        with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def cassandra_adapter(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    keep = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "adapter", *arguments],
        env=keep | environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def started(state: Path, port: int | None = None, **environ: str) -> Adapter:
    """An adapter that answers."""
    adapter = Adapter(state, port, **environ)
    eventually(adapter.health, "the adapter to answer")
    return adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    """A running adapter with a store of its own."""
    running = started(tmp_path / "state")
    yield running
    running.kill()


def rows(adapter: Adapter, metric: str) -> list[str]:
    """What `query` prints of the last hour."""
    asked = adapter.query("edge-01", metric)
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.splitlines()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signal handlers are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ---- serving ----------------------------------------------------------------------------------


def test_what_is_sent_is_shown_by_query(adapter: Adapter):
    """While the adapter runs, and after it has stopped."""
    assert post(adapter.url, sample_body(3)) == 200
    (line,) = rows(adapter, "m2")
    assert line.split()[1:] == ["2.0", "%"]
    document = json.loads(adapter.query("edge-01", "m1", "--json", "--limit", "1").stdout)
    assert (document["value"], document["customer_id"]) == (1.0, "acme")
    assert adapter.stop() == 0
    assert len(rows(adapter, "m2")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0_and_one_file(tmp_path: Path, number: int):
    """Within the 8 s of the contract, the journal brought into the file."""
    adapter = started(tmp_path / "state")
    assert post(adapter.url, sample_body(3)) == 200
    assert adapter.stop(number, deadline_s=8.0) == 0
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["metrics.db"]
    assert "Traceback" not in adapter.log


def test_a_signal_during_start_up_ends_it_cleanly(tmp_path: Path):
    """Imports are slow on a small device; whoever stops us meanwhile sees no traceback."""
    adapter = Adapter(tmp_path / "state")
    eventually(lambda: _takes_signals(adapter.process.pid), "the handlers to be installed")
    assert adapter.stop() == 0
    assert "Traceback" not in adapter.log


def _takes_signals(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_signals_are_taken_before_anything_slow_is_imported():
    """What is imported ahead of that is what a signal can end with a traceback."""
    code = "import sys; import adapter.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "edge_agent.stop" in loaded
    assert not {"argparse", "json", "asyncio", "edge_agent.settings", "sqlite3"} & set(loaded)


def test_kill_9_loses_no_acknowledged_row(tmp_path: Path):
    """Again and again, in the middle of whatever it does; a resend makes no double."""
    acknowledged = 0
    for life in range(3):
        adapter = started(tmp_path / "state")
        for n in range(10):
            if post(adapter.url, sample_body(20, first=20 * (10 * life + n))) == 200:
                acknowledged += 20
        adapter.kill()
    adapter = started(tmp_path / "state")
    asked = adapter.query("edge-01", f"m{acknowledged - 1}")
    assert len(asked.stdout.splitlines()) == 1
    adapter.stop()
    with closing(sqlite3.connect(tmp_path / "state" / "metrics.db")) as connection:
        assert connection.execute("SELECT count(*) FROM metrics").fetchone() == (acknowledged,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert acknowledged == 600


def test_a_full_disk_is_503_and_heals_without_a_restart(adapter: Adapter):
    """The kernel refuses to let its files grow, and later lets them again."""
    assert post(adapter.url, sample_body(5)) == 200
    pid = adapter.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    assert post(adapter.url, sample_body(50, first=100)) == 503
    assert get(f"{adapter.url}/health")[0] == 200
    assert get(f"{adapter.url}/health/ready")[0] == 503
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    # Nobody sends anything: it finds out by itself.
    eventually(lambda: get(f"{adapter.url}/health/ready")[0] == 200, "the store to be back")
    assert post(adapter.url, sample_body(50, first=100)) == 200
    assert len(rows(adapter, "m4") + rows(adapter, "m149")) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1500 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"mount: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def test_a_disk_that_fills_up_under_load_is_one_outage(small_disk: Path):
    """Not a new one with every request that fits into what the failed ones gave back."""
    adapter = started(small_disk / "state")
    try:
        number = count = refused = 0
        while refused < 300:
            # Of every size, and of none.
            count = (0, 1, 20, 100, 1000)[number % 5]
            if post(adapter.url, sample_body(count, first=1000 * number)) == 503:
                refused += 1
                assert get(f"{adapter.url}/health/ready")[0] == 503
            number += 1
        assert json.loads(get(f"{adapter.url}/health")[1])["status"] == "degraded"
        assert "adapter_store_up 0\n" in get(f"{adapter.url}/metrics")[1]
        assert adapter.log.count("store is away") == 1
        assert adapter.log.count("store is back") == 0
        subprocess.run(["mount", "-o", "remount,size=60m", small_disk], check=True)
        eventually(lambda: get(f"{adapter.url}/health/ready")[0] == 200, "the store to be back")
        assert post(adapter.url, sample_body(1000)) == 200
        assert adapter.log.count("store is back") == 1
        assert adapter.stop() == 0
    finally:
        adapter.kill()


def test_a_second_adapter_on_the_same_directory_is_refused(adapter: Adapter):
    """Exit code 75, with the remedy; the first goes on."""
    second = cassandra_adapter(STATE_DIRECTORY=str(adapter.state), PORT=str(free_port()))
    assert second.returncode == 75
    assert "another adapter uses it" in second.stderr
    assert adapter.health() is not None


def test_tls_with_client_certificates(tmp_path: Path):
    """Without one of the right authority nobody gets in; the port speaks no plain HTTP."""
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "stranger")
    server, client = authority.issue("localhost", "localhost", "127.0.0.1"), authority.issue("c")
    foreign = stranger.issue("c")
    port = free_port()
    adapter = Adapter(
        tmp_path / "state",
        port,
        TLS_CERTIFICATE=str(server.certificate),
        TLS_KEY=str(server.key),
        TLS_CLIENT_CA=str(authority.certificate),
    )
    try:
        eventually(lambda: "url=https://127.0.0.1" in adapter.log, "the adapter to listen")
        good = ssl.create_default_context(cafile=str(authority.certificate))
        good.load_cert_chain(client.certificate, client.key)
        url = f"https://127.0.0.1:{port}"
        assert post(url, sample_body(1), good) == 200
        for pair in (None, foreign):
            bad = ssl.create_default_context(cafile=str(authority.certificate))
            if pair is not None:
                bad.load_cert_chain(pair.certificate, pair.key)
            with pytest.raises(OSError):  # noqa: PT011 (which one depends on who closes first)
                post(url, sample_body(1), bad)
        assert adapter.stop() == 0
    finally:
        adapter.kill()


def test_tokens_from_a_file(tmp_path: Path):
    """On every interface, with a token."""
    tokens = tmp_path / "tokens"
    tokens.write_text("secret acme\n")
    tokens.chmod(0o600)
    adapter = started(tmp_path / "state", LISTEN_HOST="0.0.0.0", TOKENS_FILE=str(tokens))
    try:
        assert post(adapter.url, sample_body(1)) == 401
        assert post(adapter.url, sample_body(1), token="secret") == 200
        assert "secret" not in adapter.log
        assert adapter.stop() == 0
    finally:
        adapter.kill()


def test_many_points_do_not_make_it_grow(adapter: Adapter):
    """The smallest that there are: decoded whole, 800 KB of them would take 40 MB."""
    before = _anonymous_mb(adapter)
    assert post(adapter.url, _empty_points(400_000)) == 200
    assert post(adapter.url, _empty_points(2_000_000)) == 413
    assert _anonymous_mb(adapter) - before < 64
    text = get(f"{adapter.url}/metrics")[1]
    assert 'adapter_points_rejected_total{reason="time_zero"} 400000\n' in text


def test_a_hostile_body_keeps_nobody_waiting_nor_the_end(adapter: Adapter):
    """20 KB that unpack to ten million Resources, and 13 KB of the most work that is taken."""
    bomb = gzip.compress(b"\n\x00" * 10_000_000, 9)
    most = gzip.compress(b"\n\x00" * 400_000, 9)
    assert post(adapter.url, bomb, coding="gzip") == 413
    with ThreadPoolExecutor() as pool:
        hostile = [pool.submit(post, adapter.url, most, coding="gzip") for _ in range(2)]
        while not any(one.done() for one in hostile):
            assert post(adapter.url, b"") == 200
            assert post(adapter.url, sample_body(5)) == 200
        # The other is under way.
        assert adapter.stop(deadline_s=8.0) == 0
        assert 200 in [one.result() for one in hostile if one.exception() is None]
    assert "Traceback" not in adapter.log


def _empty_points(count: int) -> bytes:
    built = request()
    resource_bytes = built.resource_metrics[0].resource.SerializeToString()
    gauge_bytes = bytes_field(1, b"") * count
    metric = bytes_field(1, b"m") + bytes_field(5, gauge_bytes)
    scope = bytes_field(2, metric)
    return bytes_field(1, bytes_field(1, resource_bytes) + bytes_field(2, scope))


def _anonymous_mb(adapter: Adapter) -> float:
    status = Path(f"/proc/{adapter.process.pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


# ---- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        ("migrate",),
        ("replay", "--once"),
        ("query",),
        ("query", "edge-01"),
        ("query", "edge-01", "m", "--since", "60"),
        ("query", "edge-01", "m", "--since", "0s"),
        ("query", "edge-01", "m", "--limit", "0"),
        ("query", "edge-01", "m", "--limit", "x"),
        ("--port", "1"),
    ],
)
def test_wrong_usage_is_code_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    """argparse's own, with what is wrong."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: cassandra-adapter" in capsys.readouterr().err


def test_a_bad_duration_says_how_to_write_it(capsys: pytest.CaptureFixture[str]):
    """As everywhere in the project."""
    with pytest.raises(SystemExit):
        main(["query", "edge-01", "m", "--since", "60"])
    assert "argument --since: 60: has no unit; write 60s" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]):
    """Both are successes; the help names the exit codes."""
    for argument, says in (("--version", edge_agent.__version__), ("--help", "78 bad conf")):
        with pytest.raises(SystemExit) as raised:
            main([argument])
        assert raised.value.code == 0
        assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"PORT": "x"}, "PORT=x (environment): not a whole number"),
        ({"LISTEN_HOST": "0.0.0.0"}, "set TOKENS_FILE, or ALLOW_ANONYMOUS=true"),
        ({"CASSANDRA_HOST": "c"}, "this build stores in SQLite only"),
        ({"STATE_DIRECTORY": "/proc/none"}, "STATE_DIRECTORY=/proc/none: "),
        ({"LISTEN_HOST": "192.0.2.1", "ALLOW_ANONYMOUS": "1"}, "LISTEN_HOST=192.0.2.1, PORT=0"),
    ],
)
def test_bad_configuration_is_code_78(tmp_path: Path, environ: dict[str, str], says: str):
    """systemd does not restart what a person has to repair."""
    given = {"STATE_DIRECTORY": str(tmp_path), "PORT": "0"} | environ
    ended = cassandra_adapter(**given)
    assert (ended.returncode, ended.stdout) == (78, "")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_query_without_rows_is_code_0_and_prints_on_standard_error(adapter: Adapter):
    """Nothing found is no failure of the program."""
    asked = adapter.query("edge-01", "m0")
    assert (asked.returncode, asked.stdout) == (0, "")
    assert "nothing is stored yet" in asked.stderr


def test_a_query_without_a_store_is_code_78(tmp_path: Path):
    """Most likely the wrong STATE_DIRECTORY."""
    asked = cassandra_adapter("query", "n", "m", STATE_DIRECTORY=str(tmp_path / "none"))
    assert asked.returncode == 78
    assert "no store there; set STATE_DIRECTORY" in asked.stderr


def without_protobuf(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    """The command where only the agent's libraries are installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('google', 'opentelemetry')));"
        "from adapter.__main__ import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(state), "PORT": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_its_libraries_it_says_what_to_install(tmp_path: Path):
    """`pip install pulseops-edge` is the agent alone, and brings this command along."""
    ended = without_protobuf(state=tmp_path)
    assert (ended.returncode, ended.stdout) == (78, "")
    assert "pip install 'pulseops-edge[adapter]'" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_query_needs_no_protobuf(adapter: Adapter):
    """A store can be looked into wherever the agent is."""
    assert post(adapter.url, sample_body(1)) == 200
    asked = without_protobuf("query", "edge-01", "m0", state=adapter.state)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.split()[1:] == ["0.0", "%"]


def test_another_missing_module_is_a_bug(environ: pytest.MonkeyPatch, tmp_path: Path):
    """And not hidden behind advice that would not help."""
    environ.setitem(sys.modules, "adapter.run", None)
    with pytest.raises(ModuleNotFoundError, match=r"adapter\.run"):
        main([])


def test_a_pipe_that_closes_early_is_no_error(adapter: Adapter):
    """`cassandra-adapter query ... | head -1`."""
    points = [point(float(n), time_ns=_now_ns() - n * 10**6) for n in range(5000)]
    body = request(gauge(*points, name="m")).SerializeToString()
    assert post(adapter.url, body) == 200
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "adapter", "query", "edge-01", "m"],
        env={"PATH": os.environ["PATH"], "STATE_DIRECTORY": str(adapter.state)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asked:
        assert asked.stdout is not None
        assert asked.stderr is not None
        assert asked.stdout.readline().split()[1:] == [b"0.0", b"%"]
        asked.stdout.close()
        assert asked.stderr.read() == b""
        assert asked.wait(60) == 0


def _now_ns() -> int:
    return time.time_ns()


# ---- in this process ---------------------------------------------------------------------------


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment of our own."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.name, raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("PORT", "0")
    logger = logging.getLogger()
    level, outputs = logger.level, list(logger.handlers)
    yield monkeypatch
    logger.setLevel(level)
    logger.handlers[:] = outputs


def test_query_prints_and_returns_0(
    environ: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With the store at rest."""
    assert main(["query", "edge-01", "m"]) == 78
    database = Database(tmp_path / FILE_NAME)
    database.close()
    assert main(["query", "edge-01", "m", "--since", "2h", "--limit", "3"]) == 0
    assert "nothing is stored yet" in capsys.readouterr().err


def test_serving_ends_with_0_when_it_was_stopped_before_it_began(
    environ: pytest.MonkeyPatch, tmp_path: Path
):
    """A signal that came during the imports is not lost."""
    stop = StopRequest.take_signals

    def stopped_at_once(request: StopRequest) -> None:
        stop(request)
        signal.raise_signal(signal.SIGTERM)

    environ.setattr(StopRequest, "take_signals", stopped_at_once)
    assert main([]) == 0
    assert [p.name for p in tmp_path.iterdir()] == [FILE_NAME]


def test_serving_says_why_it_does_not(
    environ: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """75 for a directory in use, 78 for settings."""
    with locked(tmp_path):
        assert main([]) == 75
    environ.setenv("STORE", "cassandra")
    assert main([]) == 78
    said = capsys.readouterr().err
    assert "another adapter uses it" in said
    assert "this build stores in SQLite only" in said


def test_a_closed_pipe_is_the_end_of_a_query(
    environ: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """0, and nothing on standard error when Python closes standard output."""

    def closed(*_: object, **__: object) -> int:
        raise BrokenPipeError

    environ.setattr("adapter.query.query", closed)
    with (tmp_path / "out").open("w") as out:
        environ.setattr(sys, "stdout", out)
        assert main(["query", "edge-01", "m"]) == 0
    assert capfd.readouterr().err == ""
