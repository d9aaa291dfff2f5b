"""Alert rules, their tests, their pages and the dashboard fit each other and the code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from keypost.cli.app import app as keypost
from keypost_services.ca.command_line import app as keypost_ca
from keypost_services.embedded.command_line import app as keypost_embedded
from support.metrics_page import VALUES, labels_of_all, names
from support.monitoring import (
    METRIC,
    PROMETHEUS_RULE,
    RECORDED,
    RUNBOOK,
    alerts,
    cases_of_alerts,
    panels,
    prometheus_rule,
    queries,
    recorded,
    rules,
)
from support.pages import ROOT, anchors, blocks, inline_code, read

if TYPE_CHECKING:
    from pathlib import Path

PARTS = ["what-it-means", "what-users-see", "how-to-look", "how-to-mend-it", "when-to-escalate"]
SEVERITIES = {"page", "ticket"}
PAGES = sorted(RUNBOOK.glob("Keypost*.md"))
INCIDENTS = sorted((ROOT / "docs" / "incidents").glob("*.md"))
ADDRESS = re.compile(r"https://keypost\.example/docs/runbook/(\w+)\.md")
"""Operators put where they read the pages in place of the host."""
PROGRAMS: dict[str, Any] = {
    name: typer.main.get_command(app)
    for name, app in (("keypost", keypost), ("keypost-ca", keypost_ca), ("keypost-embedded", keypost_embedded))
}
NOT_THE_SERVICES_FAULT = {"SHUTTING_DOWN", "REVISION_UNKNOWN", "START_MISSING", "STREAM_EXPIRED"}
"""Reasons with a status of failure that the objective leaves out."""
FOR_THE_CURIOUS = {
    "keypost_trust_sequence",
    "keypost_directory_key_events_total",
    "keypost_directory_watchers",
    "keypost_delivery_key_events_total",
    "keypost_delivery_wake_ups_total",
}
"""What neither the dashboard nor an alert asks for."""
OF_PROMETHEUS = {"job", "instance", "le"}
PARAGRAPHS = re.compile(r"\{([^{}]*)\}")


def selectors(query: str) -> set[tuple[str, str]]:
    """Return the labels that a query selects by, with what they are compared with."""
    return {
        (label, value)
        for braces in PARAGRAPHS.findall(query)
        for label, value in re.findall(r'([a-z_]+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"', braces)
    }


def groupings(query: str) -> set[str]:
    found = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query)
    return {label.strip() for labels in found for label in labels.split(",")}


def problems_of(query: str) -> set[str]:
    """Return what a query names that there is not."""
    known = {label for labels in labels_of_all().values() for label in labels} | OF_PROMETHEUS
    problems = {name for name in METRIC.findall(query) if name not in names()}
    problems |= set(RECORDED.findall(query)) - recorded()
    problems |= groupings(query) - known
    for label, value in selectors(query):
        problems |= {label} - known
        if label in VALUES:
            problems |= {f"{label}={one}" for one in value.split("|")} - {f"{label}={one}" for one in VALUES[label]}
    return problems


def test_every_query_asks_for_what_there_is() -> None:
    asked = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    assert {title: problems for title, query in [*asked, *queries()] if (problems := problems_of(query))} == {}


def test_a_query_for_what_there_is_not_is_found() -> None:
    query = 'sum by (user) (keypost_nothing{phase="late"}) / keypost:nothing:rate5m'
    assert problems_of(query) == {"user", "keypost_nothing", "phase=late", "keypost:nothing:rate5m"}
    assert problems_of('rate(keypost_calls{methods="x"}[5m])') == {"keypost_calls", "methods"}


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join([*(query for _, query in queries()), *(rule["expr"] for rule in rules())])
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names() if name.startswith("keypost_")}
    assert {name for name in families if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)} == FOR_THE_CURIOUS


def test_panels_have_their_own_place() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert taken.isdisjoint(cells), panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["description"]


def test_the_operators_form_of_the_rules_is_made_from_them() -> None:
    assert PROMETHEUS_RULE.read_text(encoding="utf-8") == prometheus_rule(), "write it anew: make docs"


def test_the_objective_counts_every_reason_for_which_the_service_is_to_blame() -> None:
    failing = re.compile(r"^\| `([A-Z_]+)` \| (?:UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED) \|", re.MULTILINE)
    rows = failing.findall(read(ROOT / "docs" / "errors.md"))
    records = [rule for rule in rules() if "record" in rule]
    counted = {re.findall(r'(?:reason|outcome)=~"([^"]+)"', rule["expr"])[0] for rule in records}
    (reasons,) = counted
    assert set(reasons.split("|")) == set(rows) - NOT_THE_SERVICES_FAULT
    assert set(rows) >= NOT_THE_SERVICES_FAULT
    # An envelope on a stream fails without any call that does.
    of = {(rule["record"], rule["labels"]["of"], METRIC.findall(rule["expr"])[0]) for rule in records}
    failed = {"calls": "keypost_refusals_total", "envelopes": "keypost_delivery_sends_total"}
    assert of == {(name, *kind) for name in recorded() for kind in failed.items()}


def page_of(rule: dict[str, Any]) -> str:
    """Return the name of an alert's page; raises AssertionError if no page can be there."""
    found = ADDRESS.fullmatch(rule["annotations"]["runbook_url"])
    assert found, rule
    return found[1]


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert {page.stem for page in PAGES} == {page_of(rule) for rule in alerts().values()}
    for name, rule in alerts().items():
        # Those that say the same thing sooner have one page with it.
        assert page_of(rule) == name.removesuffix("Soon")
        assert rule["labels"]["severity"] in SEVERITIES


def test_every_alert_is_tested_both_ways() -> None:
    assert cases_of_alerts() == {name: {True, False} for name in alerts()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_parts_and_names_what_there_is(page: Path) -> None:
    text, about = read(page), {name: rule for name, rule in alerts().items() if page_of(rule) == page.stem}
    assert [anchor for anchor in anchors(text) if anchor != page.stem.lower()] == PARTS
    first, _, others = text.splitlines()[2].partition(" `Keypost")
    for name, rule in about.items():
        said = first if name == page.stem else f"Keypost{others}".partition(f"{name}`: ")[2].partition(" `Keypost")[0]
        assert re.search(rf"\b{rule['labels']['severity'].title()}\b", said), name
    assert blocks(text) == [], "commands of the runbook stand in its sentences"
    for code in inline_code(text):
        assert problems_of(code) - {code} == set(), code
        if code.startswith("kubectl"):
            assert code.startswith("kubectl --namespace keypost "), code
            assert " scale " not in code, "the autoscalers would take it back"
            assert set(re.findall(r"deployment/([a-z-]+)", code)) <= {
                "keypost-ca",
                "keypost-directory",
                "keypost-delivery",
            }


def test_every_alert_is_in_the_index_with_its_severity() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", read(RUNBOOK / "README.md"), re.MULTILINE)
    assert {(name, page_of(rule), rule["labels"]["severity"]) for name, rule in alerts().items()} == {*rows}


def test_pages_of_alerts_and_of_incidents_lead_to_each_other() -> None:
    to_incidents = {(page.stem, to) for page in PAGES for to in re.findall(r"\(\.\./incidents/(\w+)\.md", read(page))}
    to_alert = re.compile(r"\(\.\./runbook/(Keypost\w+)\.md")
    back = {(alert, page.stem) for page in INCIDENTS for alert in to_alert.findall(read(page))}
    assert {pair for pair in to_incidents if pair[1] != "README"} == back
    assert back


def unknown_to_the_command_line(code: str) -> str:
    """Return what of a command there is not; a group that stands alone does nothing, and is not one either."""
    program, *words = code.split()
    command: Any = PROGRAMS[program]
    while hasattr(command, "commands"):
        word = words.pop(0) if words else "nothing"
        if word not in command.commands:
            return f"{word} after {command.name}"
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts}
    return " ".join(word for word in words if word.startswith("--") and word not in options)


@pytest.mark.parametrize("page", [*PAGES, *INCIDENTS], ids=lambda page: page.stem)
def test_a_page_tells_of_commands_that_there_are(page: Path) -> None:
    commands = [code for code in inline_code(read(page)) if code.partition(" ")[0] in PROGRAMS and " " in code]
    assert {code: unknown for code in commands if (unknown := unknown_to_the_command_line(code))} == {}


def test_a_command_that_there_is_not_is_found() -> None:
    assert unknown_to_the_command_line("keypost-ca admin audit list --user NAME") == ""
    assert unknown_to_the_command_line("keypost-ca admin audit") == "nothing after audit"
    assert unknown_to_the_command_line("keypost-ca admin undo alice") == "undo after admin"
    assert unknown_to_the_command_line("keypost-ca admin show --everything alice") == "--everything"
