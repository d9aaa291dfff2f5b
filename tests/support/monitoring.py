"""Alert rules, their tests, their pages and the dashboard in ``deploy/monitoring``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from support.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = ROOT / "deploy" / "monitoring"
RULES, RULES_TEST, DASHBOARD = FOLDER / "rules.yaml", FOLDER / "rules_test.yaml", FOLDER / "dashboard.json"
PROMETHEUS_RULE = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml"
RUNBOOK = ROOT / "docs" / "runbook"
METRIC = re.compile(r"\b(?:keypost|process)_[a-z_]+\b(?!=)")
RECORDED = re.compile(r"\bkeypost:[a-z0-9_:]+")
_HEAD = """# Made by `make docs` of deploy/monitoring/rules.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: keypost
  namespace: keypost
spec:
"""


def prometheus_rule() -> str:
    """Return the rules as the Prometheus operator takes them."""
    _, _, groups = RULES.read_text(encoding="utf-8").partition("\ngroups:\n")
    lines = ["groups:", *groups.splitlines()]
    return _HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def rules() -> list[dict[str, Any]]:
    """Return all rules."""
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Return the names that rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def cases_of_alerts() -> dict[str, set[bool]]:
    """Return of each alert whether its tests see it said (True), and not said (False)."""
    found: dict[str, set[bool]] = {}
    for test in yaml.safe_load(RULES_TEST.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            found.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    return found


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, without the rows."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Yield what the dashboard asks, each query with the title of its panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def promtool() -> Path | None:
    """Return Prometheus' own tool: that of the virtual environment (`make promtool`), else one on the PATH, if any."""
    beside = Path(sys.executable).with_name("promtool")
    if beside.exists():
        return beside
    found = shutil.which("promtool")
    return Path(found) if found else None


def run_promtool(*arguments: str | Path) -> str:
    """Return what promtool says; raises AssertionError with it if it finds a fault."""
    tool = promtool()
    assert tool is not None
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
