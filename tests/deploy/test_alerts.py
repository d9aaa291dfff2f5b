"""Prometheus takes the rules, and each alert is said when it should be and not when it should not.

``promtool`` judges: `make promtool` gets it from Debian. Without it these tests are skipped, and the gate fails.
"""

from __future__ import annotations

import os

import pytest

from support.monitoring import RULES, RULES_TEST, alerts, promtool, run_promtool

REQUIRED = "KEYPOST_PROMTOOL_REQUIRED"


@pytest.fixture(autouse=True)
def _promtool_is_there() -> None:
    if promtool() is None:
        if REQUIRED in os.environ:
            pytest.fail(f"{REQUIRED} is set and there is no promtool: make promtool")
        pytest.skip("there is no promtool, so nobody tests the alerts: make promtool")


def test_prometheus_takes_the_rules() -> None:
    assert "SUCCESS" in run_promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_alerts_are_said_when_they_should_be_and_only_then() -> None:
    assert "SUCCESS" in run_promtool("test", "rules", RULES_TEST)


def test_a_test_that_expects_something_else_is_noticed(tmp_path: object) -> None:
    """The judge itself: an alert that nobody expects fails the tests."""
    name = next(iter(alerts()))
    changed = RULES_TEST.read_text(encoding="utf-8").replace("rule_files: [rules.yaml]", f"rule_files: [{RULES}]")
    changed = changed.split("  - name: one call in fifty fails", 1)[0]
    assert name in changed
    file = RULES_TEST.__class__(str(tmp_path)) / "changed.yaml"
    file.write_text(changed.replace("'1x10'}\n    alert_rule_test", "'0x10'}\n    alert_rule_test"), encoding="utf-8")
    with pytest.raises(AssertionError, match="FAILED"):
        run_promtool("test", "rules", file)
