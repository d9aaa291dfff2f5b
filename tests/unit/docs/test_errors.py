from __future__ import annotations

import ast
import re
from pathlib import Path

import grpc
import pytest

import keypost.protocol.errors as protocol_errors
from keypost.cli.hints import HINTS
from keypost.errors import KeypostError
from keypost.keystore.errors import BackupError, KeyStoreError
from keypost.protocol.errors import NotYetError, ProtocolError

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
CODE = [
    path
    for folder in ("clients/python/keypost", "services/keypost_services")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
]
WORD = re.compile(r"[A-Z][A-Z0-9_]+")
RAISED = {"ServiceError": 1, "RefusedError": 0, "Event": 1, "tell": 1}
"""Calls that carry a reason, and which of their arguments it is."""
BASES = {kind.reason for kind in (ProtocolError, NotYetError, KeyStoreError, BackupError)}
"""Names of classes: nobody meets them."""
CAUSED = {"TokenRefusedError": 0, "token_refused": 0, "refused": 0}


def _name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _arguments(tree: ast.Module, positions: dict[str, int]) -> set[str]:
    constants, found = _constants(tree), set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        position = positions.get(_name_of(call))
        if position is None or len(call.args) <= position:
            continue
        argument = call.args[position]
        value = constants.get(argument.id) if isinstance(argument, ast.Name) else getattr(argument, "value", None)
        if isinstance(value, str) and WORD.fullmatch(value):
            found.add(value)
    return found


def _warnings(tree: ast.Module) -> set[str]:
    """Return the reasons of warnings.append((reason, sentence))."""
    return {
        call.args[0].elts[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith("warnings.append")
        and isinstance(call.args[0], ast.Tuple)
        and isinstance(call.args[0].elts[0], ast.Constant)
        and isinstance(call.args[0].elts[0].value, str)
    }


def _classes(tree: ast.Module) -> set[str]:
    return {
        statement.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        and "reason" in ast.unparse(statement).split("=")[0]
        and WORD.fullmatch(statement.value.value)
    }


def _in_protos() -> set[str]:
    """Return the reasons that the comments of the services' protos name."""
    words: set[str] = set()
    for path in ROOT.glob("protos/keypost/*/v1/*_service.proto"):
        comments = " ".join(re.findall(r"//(.*)", path.read_text(encoding="utf-8")))
        words |= set(WORD.findall(comments))
    codes = {code.name for code in grpc.StatusCode} | {"ENROLL", "APPROVE", "RENEW", "RESET", "REALM", "NAME"}
    other = {"JWT", "PAE", "SHA", "ECDSA", "DER", "RPC"}
    return {word for word in words if len(word) > 2} - codes - other


def reasons() -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in CODE]
    return set().union(*(_classes(tree) | _arguments(tree, RAISED) | _warnings(tree) for tree in trees)) - BASES


def causes() -> set[str]:
    return set().union(*(_arguments(ast.parse(path.read_text(encoding="utf-8")), CAUSED) for path in CODE))


def documented(section: str | None = None) -> set[str]:
    """Return the words in the first column of the page's tables, or of one section's."""
    text = PAGE if section is None else PAGE.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return {word for cell in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for word in WORD.findall(cell)}


def test_every_reason_of_the_code_is_documented() -> None:
    assert reasons() - documented() == set()
    assert len(reasons()) > 60


def test_every_reason_of_the_protos_is_documented() -> None:
    assert _in_protos() - documented() == set()
    assert "SEALED_KEYS_MISMATCH" in _in_protos()


def test_nothing_is_documented_that_nobody_raises() -> None:
    assert documented() - reasons() - _in_protos() - causes() == set()


def test_every_cause_of_a_refused_token_is_documented() -> None:
    assert causes() - documented("Why a token is refused") == set()
    assert "WRONG_AUDIENCE" in causes()


@pytest.mark.parametrize("reason", sorted(HINTS))
def test_what_the_command_line_gives_a_hint_for_is_documented(reason: str) -> None:
    assert reason in documented()


def _protocol_errors() -> list[type[ProtocolError]]:
    kinds = [
        kind for kind in vars(protocol_errors).values() if isinstance(kind, type) and issubclass(kind, ProtocolError)
    ]
    return [kind for kind in kinds if kind.__module__ == protocol_errors.__name__ and kind.reason not in BASES]


@pytest.mark.parametrize("kind", _protocol_errors(), ids=lambda kind: kind.reason)
def test_the_page_says_what_becomes_of_a_message(kind: type[ProtocolError]) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind.reason}` |"))
    assert row.split(" | ")[1] == ("not yet" if kind.not_yet else "never")


def test_reasons_are_told_apart() -> None:
    words = [kind.reason for kind in _protocol_errors()]
    assert len(set(words)) == len(words)
    assert KeypostError.reason not in words
