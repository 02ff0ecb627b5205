"""HTTP/1.1 that is odd, damaged or hostile, put to the receiver byte by byte.

Two readers that disagree about where a request ends are how requests are smuggled past a proxy, so
whatever is ambiguous is refused and ends the connection: what follows is never read as a request.
What went on tells whether it was.
"""

import asyncio

import pytest

from tests.agent.receiver import requests as r
from tests.agent.receiver.oracle import CHUNKED, head
from tests.agent.receiver.servers import connected, post, receiving
from tests.fakes import clock

ONE = r.ONE
SIZE = len(ONE)
SMUGGLED = post(ONE)
CHUNKED_HEAD = head(b"Transfer-Encoding: chunked")


def one(*lines: bytes) -> bytes:
    """A good request with further header lines."""
    return head(*lines, b"Content-Length: %d" % SIZE) + ONE


def target(line: bytes) -> bytes:
    """A good request with another first line."""
    return one().replace(b"POST /v1/traces HTTP/1.1", line)


# What is sent; the statuses that come back; whether the connection lives on; requests that went on.
TAKEN = [
    ("ten in one write", one() * 10, [200] * 10, True, 10),
    ("chunks of one byte", CHUNKED_HEAD + b"".join(b"1\r\n%c\r\n" % c for c in ONE) + b"0\r\n\r\n",
     [200], True, 1),
    ("chunk extensions", CHUNKED_HEAD + b'%x;a=1;b="x y"\r\n%b\r\n0;z\r\n\r\n' % (SIZE, ONE),
     [200], True, 1),
    ("trailers", CHUNKED_HEAD + b"%x\r\n%b\r\n0\r\nA: b\r\nHost: y\r\n\r\n" % (SIZE, ONE),
     [200], True, 1),
    # The parser is lenient about these; nobody reads them differently.
    ("two blanks before the version", target(b"POST /v1/traces  HTTP/1.1"), [200], True, 1),
    ("RTSP/1.0", target(b"POST /v1/traces RTSP/1.0"), [200], False, 1),
    ("chunk size in capitals, zeros", CHUNKED_HEAD + b"00%X\r\n%b\r\n000\r\n\r\n" % (SIZE, ONE),
     [200], True, 1),
    ("no chunk but the last", CHUNKED_HEAD + b"0\r\n\r\n", [200], True, 0),
    ("Transfer-Encoding: CHUNKED", head(b"Transfer-Encoding: CHUNKED") + CHUNKED, [200], True, 1),
    ("header names in any case", one().replace(b"Content-Type", b"cOnTeNt-tYpE"), [200], True, 1),
    ("no blank behind the colon", one().replace(b": ", b":"), [200], True, 1),
    ("blanks around a value", one(b"A: \t b \t "), [200], True, 1),
    ("an empty value", one(b"A:"), [200], True, 1),
    ("bytes beyond ASCII in a value", one(b"A: \xc3\xa9\xff"), [200], True, 1),
    ("an empty line before the request", b"\r\n" + one(), [200], True, 1),
    ("ninety more headers", one(*(b"X-%d: 1" % n for n in range(90))), [200], True, 1),
    ("absolute form", target(b"POST http://any.example:80/v1/traces HTTP/1.1"), [200], True, 1),
    ("absolute form, in capitals", target(b"POST HTTP://x/v1/traces?q HTTP/1.1"), [200], True, 1),
    ("HTTP/1.0", target(b"POST /v1/traces HTTP/1.0"), [200], False, 1),
    ("HTTP/1.0 with keep-alive",
     target(b"POST /v1/traces HTTP/1.0").replace(b"Host: x", b"Connection: keep-alive"),
     [200], True, 1),
    ("HTTP/1.0 without Host", target(b"POST /v1/traces HTTP/1.0").replace(b"Host: x\r\n", b""),
     [200], False, 1),
    ("Connection: close", one(b"Connection: close") + SMUGGLED, [200], False, 1),
    ("Connection: close among others", one(b"Connection: foo, close"), [200], False, 1),
    ("Expect, the body with it", one(b"Expect: 100-continue"), [200], True, 1),
    ("Expect in HTTP/1.0 means nothing",
     target(b"POST /v1/traces HTTP/1.0").replace(b"Host: x", b"Expect: 100-continue"),
     [200], False, 1),
]  # fmt: skip

REFUSED = [
    # Where a request ends.
    ("CL.TE", head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + CHUNKED, [400]),
    ("TE.CL", head(b"Transfer-Encoding: chunked", b"Content-Length: 4") + CHUNKED, [400]),
    ("CL.TE with a length of 0", head(b"Content-Length: 0", b"Transfer-Encoding: chunked")
     + CHUNKED, [400]),
    ("TE.TE, one of them odd",
     head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: cow") + CHUNKED, [400, 501]),
    ("TE: identity", head(b"Transfer-Encoding: identity") + CHUNKED, [400, 501]),
    ("TE: xchunked", head(b"Transfer-Encoding: xchunked") + CHUNKED, [400, 501]),
    ("TE: chunked, identity", head(b"Transfer-Encoding: chunked, identity") + CHUNKED, [400, 501]),
    ("TE: chunked twice", head(b"Transfer-Encoding: chunked, chunked") + CHUNKED, [400, 501]),
    ("TE: quoted", head(b'Transfer-Encoding: "chunked"') + CHUNKED, [400, 501]),
    ("TE behind a vertical tab", head(b"Transfer-Encoding: \x0bchunked") + CHUNKED, [400, 501]),
    ("TE with a blank before the colon", head(b"Transfer-Encoding : chunked") + CHUNKED, [400]),
    ("TE with a tab before the colon", head(b"Transfer-Encoding\t: chunked") + CHUNKED, [400]),
    ("TE behind a blank", head(b" Transfer-Encoding: chunked") + CHUNKED, [400]),
    ("TE behind a bare CR", head(b"A: b\rTransfer-Encoding: chunked") + CHUNKED, [400]),
    ("TE in a folded line", head(b"A: b\r\n Transfer-Encoding: chunked") + CHUNKED, [400]),
    ("TE folded", head(b"Transfer-Encoding:\r\n chunked") + CHUNKED, [400]),
    ("TE in HTTP/1.0",
     CHUNKED_HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKED, [400]),
    ("two lengths that differ", head(b"Content-Length: 0", b"Content-Length: 9") + ONE, [400]),
    ("two lengths that agree", one(b"Content-Length: %d" % SIZE), [400]),
    ("a list of lengths", head(b"Content-Length: %d, %d" % (SIZE, SIZE)) + ONE, [400]),
    ("a length with a sign", head(b"Content-Length: +%d" % SIZE) + ONE, [400]),
    ("a negative length", head(b"Content-Length: -1") + ONE, [400]),
    ("a length in hex", head(b"Content-Length: 0x10") + ONE, [400]),
    ("a length with a blank in it", head(b"Content-Length: 1 0") + ONE, [400]),
    ("an empty length", head(b"Content-Length:") + ONE, [400]),
    ("a length of thirty digits", head(b"Content-Length: " + b"9" * 30) + ONE, [400]),
    # Chunks.
    ("a chunk size that is none", CHUNKED_HEAD + b"xyz\r\n", [400]),
    ("an empty chunk size", CHUNKED_HEAD + b"\r\n%b\r\n0\r\n\r\n" % ONE, [400]),
    ("a negative chunk size", CHUNKED_HEAD + b"-1\r\n%b\r\n0\r\n\r\n" % ONE, [400]),
    ("a chunk size with a sign", CHUNKED_HEAD + b"+5\r\nhello\r\n0\r\n\r\n", [400]),
    ("a chunk size with 0x", CHUNKED_HEAD + b"0x5\r\nhello\r\n0\r\n\r\n", [400]),
    ("a chunk size behind a blank", CHUNKED_HEAD + b" 5\r\nhello\r\n0\r\n\r\n", [400]),
    ("a chunk size beyond 64 bits", CHUNKED_HEAD + b"f" * 17 + b"\r\nhello\r\n0\r\n\r\n", [400]),
    ("a chunk larger than all we take", CHUNKED_HEAD + b"7fffffffffffffff\r\n" + bytes(5 << 20),
     [413]),
    ("a chunk longer than its size", CHUNKED_HEAD + b"5\r\nhello!\r\n0\r\n\r\n", [400]),
    ("a chunk without CRLF behind it", CHUNKED_HEAD + b"5\r\nhello0\r\n\r\n", [400]),
    ("bare LF behind a chunk size", CHUNKED_HEAD + b"5\nhello\r\n0\r\n\r\n", [400]),
    ("bare LF behind a chunk", CHUNKED_HEAD + b"5\r\nhello\n0\r\n\r\n", [400]),
    ("a bare CR in a chunk extension", CHUNKED_HEAD + b"5;a\rb\r\nhello\r\n0\r\n\r\n", [400]),
    ("a length in the trailers", CHUNKED_HEAD + b"0\r\nContent-Length: 9\r\n\r\n", [400]),
    ("an endless chunk extension", CHUNKED_HEAD + b"5;" + b"a" * 100_000, [400]),
    ("endless trailers", CHUNKED_HEAD + b"0\r\n" + b"A: b\r\n" * 20_000, [400, 431]),
    # Heads.
    ("obs-fold", one(b"A: b\r\n c"), [400]),
    ("obs-fold in the first header", one().replace(b"Host: x", b" Host: x"), [400]),
    ("bare LF everywhere", one().replace(b"\r\n", b"\n"), [400]),
    ("bare LF behind a header", one(b"A: b\nC: d"), [400]),
    ("a bare CR in a value", one(b"A: b\rC: d"), [400]),
    ("NUL in a value", one(b"A: b\0c"), [400]),
    ("NUL in a name", one(b"A\0: b"), [400]),
    ("NUL in the target", target(b"POST /v1/traces\0 HTTP/1.1"), [400]),
    ("a control character in a value", one(b"A: \x01"), [400]),
    ("DEL in a value", one(b"A: \x7f"), [400]),
    ("a line without a colon", one(b"hello"), [400]),
    ("an empty name", one(b": b"), [400]),
    ("a blank in a name", one(b"A B: c"), [400]),
    ("bytes beyond ASCII in a name", one(b"\xc3\xa9: b"), [400]),
    ("no Host", one().replace(b"Host: x\r\n", b""), [400]),
    ("two Hosts", one(b"Host: y"), [400]),
    ("a header of 17 KiB", one(b"A: " + b"a" * (17 << 10)), [431]),
    ("a header that does not end", head()[:-4] + b"\r\nA: " + b"a" * 200_000, [431]),
    ("a name of 17 KiB", one(b"a" * (17 << 10) + b": b"), [431]),
    ("two hundred headers", one(*(b"X-%d: 1" % n for n in range(200))), [431]),
    ("100,000 headers", head()[:-4] + b"\r\nA: b" * 100_000, [431]),
    ("empty lines without end", b"\r\n" * 50_000, [431, 400]),
    # First lines.
    ("a method of our own", target(b"POSTT /v1/traces HTTP/1.1"), [400]),
    ("a method in small letters", target(b"post /v1/traces HTTP/1.1"), [400]),
    ("a tab for a blank", target(b"POST\t/v1/traces\tHTTP/1.1"), [400]),
    ("a blank in the target", target(b"POST /v1/tra ces HTTP/1.1"), [400]),
    ("HTTP/0.9", target(b"POST /v1/traces"), [400, 505]),
    ("HTTP/1.2", target(b"POST /v1/traces HTTP/1.2"), [505, 400]),
    ("HTTP/2.0", target(b"POST /v1/traces HTTP/2.0"), [505]),
    ("HTTP/11.1", target(b"POST /v1/traces HTTP/11.1"), [400]),
    ("http/1.1", target(b"POST /v1/traces http/1.1"), [400]),
    ("another protocol", target(b"POST /v1/traces OTLP/1.0"), [400]),
    ("a target of neither form", target(b"POST v1/traces HTTP/1.1"), [400]),
    ("a target of 17 KiB", target(b"POST /" + b"a" * (17 << 10) + b" HTTP/1.1"), [431]),
    ("CONNECT", b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    ("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    ("an upgrade to h2c with a body", one(b"Connection: Upgrade, HTTP2-Settings",
     b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"), [501]),
    ("another expectation", one(b"Expect: 200-ok"), [417]),
    ("random bytes", bytes(range(256)) * 4, [400]),
]  # fmt: skip


async def statuses(wire, *, until_closed: bool, count: int = 0) -> list[int]:
    """What comes back: `count` answers, or all until the server closes."""
    found: list[int] = []
    while until_closed or len(found) < count:
        try:
            found.append((await wire.answer()).status)
        except asyncio.IncompleteReadError as error:
            return [*found, -1] if error.partial else found  # Half an answer is none.
    return found


@pytest.mark.parametrize("cut", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("data", "expected", "lives_on", "went_on"),
    [pytest.param(*case[1:], id=case[0]) for case in TAKEN],
)
async def test_what_is_odd_but_clear_is_taken(
    data: bytes, expected: list[int], lives_on: bool, went_on: int, cut: int | None
) -> None:
    """RFC 9112 lets clients write the same thing in many ways, and TCP cuts it anywhere."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        for at in range(0, len(data), cut or len(data)):
            await wire.send(data[at : at + (cut or len(data))])
        found = await statuses(wire, until_closed=not lives_on, count=len(expected))
        # Byte by byte, the body is not there yet when its head asks whether to send it.
        assert [status for status in found if status != 100] == expected
        assert receiver.queues.items == went_on
        if lives_on:
            await wire.send(one())
            assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    ("data", "allowed"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
async def test_what_is_not_clear_is_refused_and_ends_the_connection(
    data: bytes, allowed: list[int]
) -> None:
    """One answer, nothing went on, and a request behind it is not read as one."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        sending = asyncio.create_task(wire.send(data + b"\r\n\r\n" + SMUGGLED))
        found = await statuses(wire, until_closed=True)
        await sending
        assert len(found) == 1
        assert found[0] in allowed
        assert receiver.queues.taken == []
        assert receiver.budget.in_flight == 0


async def test_an_upgrade_without_a_body_is_not_taken_up() -> None:
    """RFC 9110, 7.8: a server may ignore it. The answer is to the request, and the last."""
    upgrade = b"GET /v1/traces HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with receiving() as receiver, connected(receiver.port) as wire:
        await wire.send(upgrade + SMUGGLED)
        assert await statuses(wire, until_closed=True) == [405]
        assert receiver.queues.taken == []


async def test_pipelined_requests_are_answered_in_order_also_the_refused() -> None:
    """Each answer belongs to its request; a refusal that leaves the framing whole ends nothing."""
    data = one() + post(ONE, "/nowhere") + post(b"\xff") + post(b"{}", kind="application/json")
    async with receiving() as receiver, connected(receiver.port) as wire:
        await wire.send(data * 50)
        expected = [200, 404, 400, 200] * 50
        assert await statuses(wire, until_closed=False, count=200) == expected
        assert receiver.queues.items == 50


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(one(), [200], id="behind a request"),
        pytest.param(one() + one()[:-1], [200, 400], id="in a body"),
        pytest.param(one() + CHUNKED_HEAD + b"5\r\nhel", [200, 400], id="in a chunk"),
        pytest.param(one() + b"POST /v1/tr", [200, 400], id="in a head"),
        pytest.param(b"", [], id="before a request"),
    ],
)
async def test_a_client_that_closes_its_side(data: bytes, expected: list[int]) -> None:
    """What was whole is answered, what was not is refused, and nothing is kept open for it."""
    async with receiving() as receiver, connected(receiver.port) as wire:
        await wire.send(data)
        wire.writer.write_eof()
        assert await statuses(wire, until_closed=True) == expected
        assert receiver.budget.in_flight == 0


async def test_a_client_that_goes_in_the_middle_of_a_body_is_forgotten() -> None:
    """Without a word to the log, and with its bytes given back."""
    async with receiving() as receiver:
        async with connected(receiver.port) as wire:
            await wire.send(head(b"Content-Length: 4000000") + bytes(100_000))
            wire.writer.transport.abort()
        async with connected(receiver.port) as wire:
            await wire.send(one())
            assert (await wire.answer()).status == 200


# ---- slow senders, on fake time ---------------------------------------------------------------


async def drip(data: bytes, rest: bytes, every_s: float) -> tuple[list[int], float]:
    """Send `data`, then `rest` a byte every so often: what is answered, and after how long."""
    loop = asyncio.get_running_loop()
    async with receiving() as receiver, connected(receiver.port) as wire:
        started = loop.time()
        wire.deadline_s = 1000.0
        await wire.send(data)

        async def dripping() -> None:
            for byte in rest:
                await asyncio.sleep(every_s)
                await wire.send(bytes((byte,)))

        sender = asyncio.create_task(dripping())
        found = await statuses(wire, until_closed=True)
        took_s = loop.time() - started
        sender.cancel()
        assert receiver.budget.in_flight == 0
        return found, took_s


@pytest.mark.parametrize(
    ("data", "rest", "expected", "within_s"),
    [
        pytest.param(b"", b"", [], 10, id="nothing at all"),
        pytest.param(b"P", one()[1:], [408], 10, id="a head"),
        pytest.param(one() + b"P", one()[1:], [200, 408], 10, id="a head behind a request"),
        pytest.param(one(), b"", [200], 300, id="nothing behind a request"),
        pytest.param(head(b"Content-Length: 4000000"), bytes(100), [408], 10, id="a body"),
        pytest.param(CHUNKED_HEAD, b"1\r\nx\r\n" * 99, [408], 10, id="chunks"),
        pytest.param(CHUNKED_HEAD + b"0\r\n", b"A: b\r\n" * 99, [408], 10, id="trailers"),
    ],
)
def test_a_byte_a_second_is_not_enough(
    data: bytes, rest: bytes, expected: list[int], within_s: float
) -> None:
    """Slow loris: a head has ten seconds in all, a body moves on or ends, idle is five minutes."""
    found, took_s = slow(data, rest)
    assert found == expected
    assert within_s <= took_s <= within_s + 3  # With two seconds to hear the answer.


def slow(data: bytes, rest: bytes, every_s: float = 1.0) -> tuple[list[int], float]:
    """`drip` on fake time."""
    return clock.run(drip(data, rest, every_s))
