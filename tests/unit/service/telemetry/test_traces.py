"""Which requests are traced, and what a tracer does with a collector that does not speak HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter

import pytest

from darkroom.service.config.otel import read_trace_settings
from darkroom.service.telemetry.answered import NO_PARENT, Answered, Parent, parent_of
from darkroom.service.telemetry.otlp import SpanWriter, joined
from darkroom.service.telemetry.traces import Tracer

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LOW_TRACE = "ffffffffffffffff0000000000000001"  # drawn by any share, by its last 16 digits


def tracer(sampler: str, share: str = "1", url: str = "http://collector:4318") -> Tracer:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": share,
        "OTEL_BSP_SCHEDULE_DELAY": "1",
    }
    settings = read_trace_settings(variables)
    assert settings is not None
    return Tracer(settings, Counter(), version="0")


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, is_sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, is_sampled=False)),
        (f"00-{TRACE}-{SPAN}-fe", Parent(TRACE, SPAN, is_sampled=False)),
        (f"cc-{TRACE}-{SPAN}-03-what-the-future-brings", Parent(TRACE, SPAN, is_sampled=True)),
        (f"cc-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, is_sampled=True)),
        (f"cc-{TRACE}-{SPAN}-03.", NO_PARENT),
        (f"00-{TRACE}-{SPAN}-01-more", NO_PARENT),
        (f"ff-{TRACE}-{SPAN}-01", NO_PARENT),
        (f"00-{'0' * 32}-{SPAN}-01", NO_PARENT),
        (f"00-{TRACE}-{'0' * 16}-01", NO_PARENT),
        (f"00-{TRACE.upper()}-{SPAN}-01", NO_PARENT),
        (f"00-{TRACE}-{SPAN}-1", NO_PARENT),
        (f"00-{TRACE}-{SPAN}-01\n", NO_PARENT),
        ("", NO_PARENT),
    ],
)
def test_a_traceparent_is_read_as_w3c_says(text: str, parent: Parent) -> None:
    assert parent_of(text) == parent


@pytest.mark.parametrize(
    ("sampler", "share", "sampled", "unsampled", "alone"),
    [
        ("parentbased_always_on", "", True, False, True),
        ("parentbased_always_off", "", True, False, False),
        ("parentbased_traceidratio", "0.000001", True, False, False),
        ("parentbased_traceidratio", "1", True, False, True),
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("traceidratio", "0.000001", True, True, False),
        ("traceidratio", "0", False, False, False),
    ],
)
def test_the_sampler_decides_and_the_callers_flag_where_it_may(
    sampler: str, share: str, sampled: bool, unsampled: bool, alone: bool
) -> None:
    made = tracer(sampler, share)
    for flags, is_traced in ("01", sampled), ("00", unsampled):
        found = made.begin("/", {"traceparent": f"00-{LOW_TRACE}-{SPAN}-{flags}"})
        assert re.fullmatch(rf"00-{LOW_TRACE}-(?!{SPAN})[0-9a-f]{{16}}-01" if is_traced else "", found)
    for asked in {}, {"traceparent": "nonsense"}:
        traces = {made.begin("/", asked) for _ in range(20)}
        assert len(traces) == (20 if alone else 1)
        assert all(parent_of(found) if alone else not found for found in traces)
        assert not any(map(made.begin, ["/health", "/metrics"], [asked, asked]))


def test_a_share_is_about_so_many_of_the_requests_without_a_trace() -> None:
    made = tracer("parentbased_traceidratio", "0.25")
    assert 2_000 < sum(bool(made.begin("/", {})) for _ in range(10_000)) < 3_000  # 500 are 11 standard deviations


@pytest.mark.parametrize(
    ("state", "kept"), [("a=1,b=2", "a=1,b=2"), ("a=\udc80", None), ("a=\x01", None), ("a=" + "x" * 511, None)]
)
def test_a_tracestate_is_passed_on_if_it_is_one(state: str, kept: str | None) -> None:
    asked = ("id", f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{'1' * 16}-01", state)
    spans = SpanWriter(b"seed").request(Answered("/", "POST", 200, "", 1.0, 2.0, 3, 4, "c", *asked))
    (root,) = json.loads(b"[%b]" % joined(spans))
    assert (root.get("traceState"), root["parentSpanId"]) == (kept, "1" * 16)


def test_a_collector_that_does_not_speak_http_is_told_from_one_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Counter[str]:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")  # HTTP/2, as gRPC's servers
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        made = tracer("always_on", url=f"http://user:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        made.note(Answered("/", "POST", 200, "", 1.0, 2.0, 3, 4, "c", "id", f"00-{TRACE}-{SPAN}-01", "", ""))
        task = asyncio.create_task(made.run())
        await made.finish()  # without tries: it is the end
        task.cancel()
        server.close()
        return made._counts

    assert asyncio.run(main()) == {"failed": 1}
    (record,) = [each for each in caplog.records if "traces can't be sent" in each.message]
    assert "is it the port of OTLP/gRPC?" in record.fields["reason"]  # type: ignore[attr-defined]
    assert "secret" not in str(record.fields)  # type: ignore[attr-defined]
