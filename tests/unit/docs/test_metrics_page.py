"""Metrics have few labels, whose values are said; and the page has them all."""

from __future__ import annotations

from support.made_parts import remade
from support.metrics_page import OTHERS, VALUES, labels_of_all, names
from support.pages import ROOT, read


def test_the_page_is_made_from_the_code() -> None:
    page = ROOT / "docs" / "metrics.md"
    assert remade(read(page)) == read(page), "write it anew: make docs"
    assert "`keypost_delivery_sends_total`" in read(page)


def test_every_label_is_said_and_no_other() -> None:
    used = {label for labels in labels_of_all().values() for label in labels}
    assert used == set(VALUES) | set(OTHERS)


def test_no_label_names_a_person_a_device_or_an_address() -> None:
    said = {word for label in (*VALUES, *OTHERS) for word in label.split("_")}
    assert said.isdisjoint({"user", "username", "device", "address", "peer", "caller", "key", "fingerprint", "id"})


def test_names_are_those_of_prometheus() -> None:
    assert {"keypost_calls_total", "keypost_call_seconds_bucket", "keypost_degraded"} <= names()
    assert "keypost_calls" not in names()
