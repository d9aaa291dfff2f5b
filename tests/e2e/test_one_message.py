"""One message, seen three ways: what was counted, what was recorded, what was logged; and in none of them a secret."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from keypost_services.embedded.layout import SERVICES
from support.one_message import ALICE, BOB, CALLS, EVENTS, OneMessage, play, value
from support.secret_scan import Place, Scanner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.collector import Collected

LOOK_UP = "keypost.directory.v1.DirectoryService/GetKeyInfo"
ASK_CA = "keypost.ca.v1.KeyInfoService/GetKeyInfo"
SEND_STREAM = "keypost.delivery.v1.DeliveryService/SendStream"
RECEIVE = "keypost.delivery.v1.DeliveryService/Receive"
OF_MESSAGES = {SEND_STREAM, RECEIVE}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> OneMessage:
    return play(tmp_path_factory.mktemp("one"))


def ways(trace: Sequence[Collected]) -> Counter[str]:
    """Return the way from the root to each span."""
    by_id = {span.span_id: span for span in trace}

    def way(span: Collected) -> str:
        own = f"{span.service.removeprefix('keypost-')} {span.kind} {span.name.rpartition('/')[2]}"
        return f"{way(by_id[span.parent_id])} > {own}" if span.parent_id else own

    return Counter(map(way, trace))


def test_it_arrives(one: OneMessage) -> None:
    assert one.received == [one.text]


def test_delivery_counted_it_once(one: OneMessage) -> None:
    assert one.grown("delivery", "keypost_delivery_sends_total") == {"accepted": 1}
    assert one.grown("delivery", "keypost_delivery_mailbox_appends_total") == {"": 1}
    assert one.grown("delivery", "keypost_delivery_pushed_total") == {"": 1}
    assert one.grown("delivery", "keypost_delivery_acknowledged_total") == {"": 1}
    calls = one.grown("delivery", CALLS)
    assert {name.partition(" ")[2] if name[0] != "/" else name.partition(" ")[0] for name in calls} == {
        f"/{SEND_STREAM}",
        f"/{RECEIVE}",
    }
    assert set(calls.values()) == {1}


def test_delivery_saw_how_deep_the_mailbox_was_and_how_long_it_waited(one: OneMessage) -> None:
    depth = {name: one.grown("delivery", f"keypost_delivery_mailbox_depth_{name}") for name in ("count", "sum")}
    assert depth == {"count": {"": 1}, "sum": {"": 1}}
    assert one.grown("delivery", "keypost_delivery_wait_seconds_count") == {"backlog": 1}
    (waited,) = one.grown("delivery", "keypost_delivery_wait_seconds_sum").values()
    assert 0 < waited < one.seconds


def test_the_directory_has_acted_upon_every_key_event(one: OneMessage) -> None:
    numbers = one.after["directory"]
    assert value(numbers, "keypost_directory_newest_sequence") == EVENTS
    assert value(numbers, "keypost_directory_key_events_behind") == 0
    acted_upon = value(numbers, "keypost_directory_key_events_total")
    assert value(numbers, "keypost_directory_key_event_seconds_count") == acted_upon >= 1


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_was_refused(one: OneMessage, service: str) -> None:
    assert one.grown(service, "keypost_refusals_total") == {}


@pytest.mark.parametrize("service", SERVICES)
def test_every_call_that_was_counted_was_recorded_and_logged(one: OneMessage, service: str) -> None:
    """From the start of the stack on: three ways of counting, one number."""
    counted: Counter[str] = Counter()
    for (name, labels), number in one.after[service].items():
        method = dict(labels).get("method", "").removeprefix("/")
        if name == CALLS and method.startswith("keypost.") and method.rpartition("/")[2] not in STREAMS:
            counted[method] += int(number)
    servers = [span for span in one.spans if span.service == f"keypost-{service}" and span.kind == "SERVER"]
    recorded = Counter(span.name for span in servers if span.name not in OF_MESSAGES)
    lines = {line["span_id"]: line for line in one.logs[service] if line["event"] == "call" and "span_id" in line}
    logged = Counter(line["method"].removeprefix("/") for line in lines.values())
    assert counted == recorded == logged
    for span in servers:
        if span.name in recorded:
            assert (lines[span.span_id]["trace_id"], lines[span.span_id]["code"]) == (span.trace_id, "OK")


STREAMS = {"SendStream", "Receive", "WatchKeyEvents"}


def test_the_trace_is_whole(one: OneMessage) -> None:
    """From ``send`` to ``receive``, over every hop, each step below the one that it follows from."""
    send = "alice PRODUCER keypost send"
    taken_in = f"{send} > alice CLIENT SendStream > delivery SERVER SendStream"
    pushed = f"{taken_in} > delivery PRODUCER Receive"
    received = f"{pushed} > bob CONSUMER keypost receive"

    def look_up(by: str) -> str:
        return f"{by} CLIENT GetKeyInfo > directory SERVER GetKeyInfo"

    def asked(by: str) -> str:
        return f"{look_up(by)} > directory CLIENT GetKeyInfo > ca SERVER GetKeyInfo"

    found = ways(one.trace)
    assert found.keys() >= {
        send,
        asked(f"{send} > alice"),
        taken_in,
        f"{taken_in} > delivery CLIENT FCALL append",
        look_up(f"{taken_in} > delivery"),
        pushed,
        received,
        look_up(f"{received} > bob"),
    }
    assert [found[once] for once in (send, taken_in, pushed, received)] == [1, 1, 1, 1]
    assert not [span for span in one.trace if span.failed]


def test_the_lines_of_every_hop_lead_to_the_trace(one: OneMessage) -> None:
    trace = {span.span_id: span for span in one.trace}
    of_trace = {service: [line for line in one.logs[service] if line.get("span_id") in trace] for service in SERVICES}
    assert [line["event"] for line in of_trace["delivery"]] == ["message taken in", "message pushed"]
    assert {line["event"] for service in ("ca", "directory") for line in of_trace[service]} == {"call"}
    assert all(line["trace_id"] == one.trace[0].trace_id for lines in of_trace.values() for line in lines)
    assert all(line["request_id"] for lines in of_trace.values() for line in lines)


def test_a_question_to_the_ca_is_logged_under_the_request_that_it_is_asked_for(one: OneMessage) -> None:
    trace = {span.span_id for span in one.trace}
    asked = {line["request_id"] for line in one.logs["ca"] if line.get("span_id") in trace}
    assert asked
    assert asked <= {line["request_id"] for line in one.logs["directory"] if line.get("span_id") in trace}


def test_spans_say_nothing_but_what_they_may(one: OneMessage) -> None:
    named = {name for span in one.spans for name in span.facts}
    assert named <= {
        "rpc.system.name",
        "rpc.method",
        "rpc.response.status_code",
        "error.type",
        "db.system.name",
        "db.operation.name",
        "db.stored_procedure.name",
    }


def test_no_username_is_in_what_was_recorded(one: OneMessage) -> None:
    """Nor in an address. That they are there when switched on, tests/integration/runtime/test_traces.py shows."""
    traces = next(place for place in one.places if place.name == "traces")
    assert [name for name in (ALICE, BOB) if name.encode() in traces.content] == []
    callers = {str(line.get("caller")).partition("/")[0] for line in one.logs["delivery"]}
    assert {ALICE, BOB} <= callers, "the log has them"


def test_no_secret_is_in_numbers_traces_logs_or_files(one: OneMessage) -> None:
    scanner = Scanner(one.secrets)
    assert scanner.astray(one.places) == []
    assert [place.name for place in one.places if place.marker not in place.content] == []
    names = {place.name for place in one.places}
    assert {"traces", "delivery: /metrics", "logs/delivery.log", "profiles/alice/keystore.sqlite3"} <= names
    assert {"postgres: base", "postgres: pg_wal"} <= names
    assert any(name.endswith(".incr.aof") for name in names)
    assert {secret.kind for secret in one.secrets} >= {"plaintext", "session key", "message key", "private key"}


def test_a_secret_in_a_span_would_be_noticed(one: OneMessage) -> None:
    traces = next(place for place in one.places if place.name == "traces")
    planted = Place("traces", traces.content.replace(b"keypost send", one.text.encode()))
    assert Scanner(one.secrets).astray([planted])
