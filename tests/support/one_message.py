"""One message from Alice to Bob through real processes, and all that was counted, recorded, logged and kept of it."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prometheus_client.parser import text_string_to_metric_families

from keypost.keystore import Passphrase, open_store
from keypost_services.embedded.layout import SERVICES, Shape
from keypost_services.embedded.processes import clean_environment
from support.collector import Collected, collecting, everything_to
from support.secret_keys import server_secrets, store_secrets
from support.secret_places import marker, metrics, postgres_places, valkey_places
from support.secret_scan import Place, Secret, files_below
from support.stack import more_settings, running_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from keypost_services.embedded.stack import Stack
    from support.collector import Collector

PERSON = Path(__file__).with_name("traced_person.py")
ALICE, BOB = "alice.liddell", "bob.cratchit"
"""The usernames: other words than the names of the processes, which their spans say."""
EVENTS = 3
"""Two enrolments and a renewal."""
ONE_OF_EACH = Shape("one of each", postgres=True)
"""PostgreSQL, and one process of each service: a message's numbers are then on one page of each."""
PATIENCE = 20.0
"""Seconds."""
Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""What a service has counted, by name and labels."""


@dataclass
class OneMessage:
    """What there is of it.

    Attributes:
        text: The message.
        received: What Bob received.
        seconds: How long it took from ``send`` until Bob had it, his start in between.
        spans: Every span of every process, from the start on.
        before: What each service had counted before the message.
        after: The same, after it.
        logs: The lines of each service, from the start on.
        secrets: What nobody may find.
        places: Where it is looked for.
    """

    text: str
    received: list[str] = field(default_factory=list)
    seconds: float = 0.0
    spans: Sequence[Collected] = ()
    before: dict[str, Counts] = field(default_factory=dict)
    after: dict[str, Counts] = field(default_factory=dict)
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    secrets: list[Secret] = field(default_factory=list, repr=False)
    places: list[Place] = field(default_factory=list, repr=False)

    def grown(self, service: str, name: str) -> dict[str, float]:
        """Return by how much a counter has grown through the message, by its labels; nothing where it has not."""
        counts = {key: value for key, value in self.after[service].items() if key[0] == name}
        growth = {key[1]: value - self.before[service].get(key, 0) for key, value in counts.items()}
        return {" ".join(value for _, value in labels): by for labels, by in growth.items() if by}

    @property
    def trace(self) -> Sequence[Collected]:
        """The spans of the message."""
        (root,) = [span for span in self.spans if span.name == "keypost send"]
        return [span for span in self.spans if span.trace_id == root.trace_id]


class Person:
    """A person in a process of its own."""

    def __init__(self, name: str, folder: Path, stack: Stack, collector: Collector, passphrase: str) -> None:
        where = [name, str(folder / "profiles" / name), str(stack.layout.bundle), collector.endpoint]
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PERSON), *where],
            env=clean_environment({"KEYPOST_PASSPHRASE": passphrase}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, do: str, **facts: str) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **facts}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes what leads there, and waits
            pass

    def leave(self) -> None:
        """End the process in good order: what it has recorded goes out."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)
        assert self._process.returncode == 0


@contextmanager
def traced_stack(folder: Path, collector: Collector) -> Iterator[Stack]:
    """Yield a stack that counts everything, and records all of it but usernames."""
    more = {"METRICS_LISTEN": "127.0.0.1:0"} | everything_to(collector, usernames=False)
    with more_settings(lambda _: more), running_stack(folder, shape=ONE_OF_EACH) as stack:
        yield stack


def play(folder: Path) -> OneMessage:
    """Send it and return all that there is of it."""
    one = OneMessage(text=f"{secrets.token_urlsafe(36)} grüße {secrets.token_urlsafe(36)}")
    passphrase = secrets.token_urlsafe(24)
    with collecting() as collector:
        with traced_stack(folder, collector) as stack:
            _send(one, folder, stack, collector, passphrase)
            one.secrets += server_secrets(stack)
            one.places += metrics(stack)
            # Nothing here is slow enough for its slow log.
            url = stack._servers._valkey.url
            one.places += [place for place in valkey_places(url) if place.name != "valkey: slow log"]
            assert stack._servers._postgres
            one.places += postgres_places(stack._servers._postgres)
            one.places += files_below(folder, marker)
            one.logs = {service: _lines(folder / "logs" / f"{service}.log") for service in SERVICES}
        one.spans = collector.spans
        one.places.append(Place("traces", b"".join(collector.raw), b"keypost send"))
    one.secrets += [Secret("plaintext", one.text.encode()), Secret("passphrase", passphrase.encode())]
    for name in ("alice", "bob"):
        store = open_store(folder / "profiles" / name, unlock := Passphrase(passphrase))
        one.secrets += store_secrets(store, unlock)
        store.close()
    return one


def _send(one: OneMessage, folder: Path, stack: Stack, collector: Collector, passphrase: str) -> None:
    with ExitStack() as present:

        def person(name: str) -> Person:
            return present.enter_context(Person(name, folder, stack, collector, passphrase))

        _talk(one, stack, person)


def _talk(one: OneMessage, stack: Stack, person: Callable[[str], Person]) -> None:
    alice, bob = person("alice"), person("bob")
    alice("enroll", name=ALICE)
    bob("enroll", name=BOB)
    bob("renew")
    bob.leave()
    # The directory forgets Bob's record with the news of his renewal: who looks him up next is answered by the CA.
    _wait(lambda: value(counts(stack, "directory"), "keypost_directory_newest_sequence") >= EVENTS)
    # What has just started may not have come to its trust statement, or its watch, at the first attempt.
    _wait(lambda: all(_is_whole(stack, service) for service in SERVICES))
    one.before = {service: counts(stack, service) for service in SERVICES}
    began = time.monotonic()
    alice("send", to=BOB, text=one.text)
    bob = person("bob")
    one.received = bob("receive")
    one.seconds = time.monotonic() - began
    alice.leave()
    bob.leave()
    _wait_for_ends(stack)
    one.after = {service: counts(stack, service) for service in SERVICES}


def counts(stack: Stack, service: str) -> Counts:
    """Return what a service has counted."""
    port = json.loads(stack.layout.ready_file(service).read_text())["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:  # our own
        families = text_string_to_metric_families(page.read().decode())
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def value(counted: Mapping[Any, float], name: str) -> float:
    """Return the sum of a metric over its labels."""
    return sum(value for key, value in counted.items() if key[0] == name)


def _is_whole(stack: Stack, service: str) -> bool:
    port = json.loads(stack.layout.ready_file(service).read_text())["metrics_port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as page:  # our own
            return not json.loads(page.read())["degraded"]
    except urllib.error.HTTPError as error:  # it is not ready yet
        error.close()
        return False


def _wait_for_ends(stack: Stack) -> None:
    """Wait until delivery has seen both streams end."""
    ended = ("SendStream", "Receive")

    def both() -> bool:
        counted = counts(stack, "delivery")
        calls = [dict(labels)["method"] for (name, labels), count in counted.items() if name == CALLS and count]
        return all(any(method.endswith(name) for method in calls) for name in ended)

    _wait(both)


CALLS = "keypost_calls_total"


def _wait(holds: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)  # asked again: a page of numbers tells nobody that it has changed


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
