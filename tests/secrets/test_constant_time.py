"""What is secret is compared in constant time: every ``==`` of the modules that hold secrets is of something public."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT, SERVICES = ROOT / "clients/python/keypost", ROOT / "services/keypost_services"
MODULES = sorted(
    [
        *(CLIENT / "keystore").glob("*.py"),
        *(
            CLIENT / "protocol" / f"{name}.py"
            for name in ("extension", "negotiation", "rsa", "sessions", "suites", "tokens")
        ),
        *(CLIENT / "client" / f"{name}.py" for name in ("identity", "opening", "sealing", "store_worker", "storing")),
        CLIENT / "transport" / "tokens.py",
        *(SERVICES / "ca" / f"{name}.py" for name in ("codes", "decoys", "enrollment", "nonces", "sign_in")),
        *(SERVICES / "runtime" / f"{name}.py" for name in ("auth", "authenticator", "callers")),
    ]
)
"""The modules that hold private keys, session keys, message keys, tokens, codes, passphrases or plaintext."""
PUBLIC = {
    *("address", "audience", "conversation", "count", "create_time", "creator", "device_id", "enter_time", "epoch"),
    *("bits", "fingerprint", "key_bits", "key_size", "kind", "me", "name", "parent_fingerprint", "reason", "received"),
    *("recipient_devices", "revision", "revisions", "signer", "state", "suite", "suite_id", "this_update", "username"),
    *(
        "version",
        "used_fingerprint",
        "bits",
        "code_type",
        "application",
        "id",
        "row",
        "realm",
        "sha256",
        "size",
        "strength",
    ),
}
"""Names of what everybody may know; a comparison with one of them on either side tells nobody anything."""
REVIEWED = {
    "ids != sorted(set(ids))": "ids of devices",
    "set(extension.recipient_devices) == {DeviceKey.of(key) for key in keys}": "devices",
    "replace(held, private_key_der=b'') == replace(added, private_key_der=b'')": "everything of a key pair but its key",
    "replace(held, content=b'') == replace(message, content=b'')": "everything of a message but its content",
    "public_key_to_der(public_key) != der": "public keys",
    "held != own": "the own key extension: a signed statement and sealed keys, which travel in the clear",
    "held.extension != statement.extension": "statements travel in the clear",
    "held == trust": "the realm's trust is public",
    "replace(held[1], received=0) != replace(file, received=0)": "what a peer said of his file, then and now",
    "_origin(held) != _origin(added)": "everything of a session but its key",
    "set(named) == {DeviceKey.of(key) for key in recipients}": "devices",
}


def comparisons(source: str) -> list[ast.Compare]:
    """Return the comparisons for equality whose sides are neither literals nor sizes nor constants nor public."""
    return [
        one
        for one in ast.walk(ast.parse(source))
        if isinstance(one, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in one.ops)
        and not any(is_harmless(side) for side in (one.left, *one.comparators))
    ]


def is_harmless(side: ast.expr) -> bool:
    """Return whether what stands on one side of a comparison cannot be a secret."""
    match side:
        case ast.Constant():
            return True
        case ast.Call(func=ast.Name(id="len" | "conversation_of")) | ast.Call(func=ast.Attribute(attr="of")):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Call(func=ast.Attribute(attr=name)):
            return name.lstrip("_") in PUBLIC or name.isupper()
        case ast.Tuple(elts=parts):
            return all(is_harmless(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return is_harmless(left) and is_harmless(right)
    return False


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_secret_is_compared_by_its_first_difference(module: Path) -> None:
    found = {ast.unparse(one) for one in comparisons(module.read_text(encoding="utf-8"))}
    assert found - REVIEWED.keys() == set(), (
        "compare secrets by hmac.compare_digest; what is public belongs into PUBLIC, or into REVIEWED with the reason"
    )


def test_what_was_reviewed_is_still_there() -> None:
    found = {ast.unparse(one) for module in MODULES for one in comparisons(module.read_text(encoding="utf-8"))}
    assert REVIEWED.keys() - found == set()


@pytest.mark.parametrize(
    "source",
    [
        "held.session_key == added.session_key",
        "known.key != opened.key",
        "token == cached.token",
        "mac != self._mac(head)",
        "code_hash == hash_code(code)",
        "session.key_id != extension.key_id",
        "held == added",
        "(known.key, 1) == (opened.key, 1)",
        "passphrase == typed",
    ],
)
def test_a_comparison_of_secrets_would_be_noticed(source: str) -> None:
    assert comparisons(source)


@pytest.mark.parametrize("source", ["len(key) != 32", "key.fingerprint == mine", "state == GOOD", "reason == 'X'"])
def test_a_comparison_of_what_is_public_is_left_alone(source: str) -> None:
    assert not comparisons(source)
