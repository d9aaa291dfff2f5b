"""What is secret is compared in constant time: every ``==`` of the modules that hold secrets is of something public."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        *(SERVICES / "ca" / f"{name}.py" for name in ("codes", "decoys", "enrollment", "nonces")),
        *(SERVICES / "ca" / "sign_in").glob("*.py"),
        *(SERVICES / "runtime" / f"{name}.py" for name in ("auth", "authenticator", "callers")),
        *(CLIENT / "cli").glob("*.py"),
        *(SERVICES / "delivery").glob("*.py"),
        *(SERVICES / "embedded").glob("*.py"),
    ]
)
"""The modules that hold private keys, session keys, message keys, tokens, codes, passphrases, passwords, plaintext or
what is sealed."""
PUBLIC = {
    *("address", "audience", "conversation", "count", "create_time", "creator", "device_id", "enter_time", "epoch"),
    *("bits", "fingerprint", "key_bits", "key_size", "kind", "me", "parent_fingerprint", "reason"),
    *("recipient_devices", "revision", "revisions", "signer", "state", "suite", "suite_id", "this_update", "username"),
    *("version", "used_fingerprint", "code_type", "application", "realm", "size", "strength"),
}
"""Names of what everybody may know; a comparison with one of them on either side tells nobody anything."""
STORY = "keypost_services/embedded/story.py"
TELLERS = "keypost_services/embedded/tellers.py"
TOLD = "a demonstration's own events, which it prints"
REVIEWED = {
    ("keypost/cli/issuer.py", "_check_named"): {"description.get('issuer') != issuer": "an issuer's name"},
    ("keypost/client/opening.py", "_is_as_announced"): {
        "(digest.digest(), size) == (part.sha256, part.size)": "one peer's digest of his own file",
    },
    ("keypost/client/sealing.py", "_may_answer_under"): {
        "set(named) == {DeviceKey.of(key) for key in recipients}": "devices",
    },
    ("keypost/keystore/backup_file.py", "_read_checked"): {
        "digest != sha256(front + text)": "a digest beside what it is of, in the clear: it tells a damaged file",
    },
    ("keypost/keystore/backups.py", "_is_under"): {
        "read_header(stream)[0].sealed_key == key.sealed_key": "what stands in the header of the file, in the clear",
    },
    ("keypost/keystore/counters.py", "SqliteCounters._move"): {
        "count_of(counter) == count_of(highest)": "counters travel in the clear",
    },
    ("keypost/keystore/counters.py", "_missed_between"): {
        "count_of(highest) == count_of(counter)": "counters travel in the clear",
    },
    ("keypost/keystore/files.py", "_check_same_file"): {
        "replace(held, received=0) != replace(file, received=0)": "what a peer said of his file, then and now",
    },
    ("keypost/keystore/key_pairs.py", "_is_same"): {
        "replace(held, private_key_der=b'') == replace(added, private_key_der=b'')": "all of a key pair but its key",
    },
    ("keypost/keystore/outbox.py", "_is_same"): {
        "replace(held, content=b'') == replace(message, content=b'')": "all of a message but its content",
    },
    ("keypost/keystore/profile.py", "SqliteProfile.set_realm_trust"): {"held == trust": "the realm's trust is public"},
    ("keypost/keystore/sessions.py", "SqliteSessions.set_own_extension"): {
        "held != own": "the own key extension: a signed statement and sealed keys, which travel in the clear",
    },
    ("keypost/keystore/sessions.py", "_check_same"): {
        "_origin(held) != _origin(added)": "all of a session but its key"
    },
    ("keypost/keystore/sessions.py", "_check_same_statement"): {
        "held.extension != added.extension": "statements travel in the clear",
    },
    ("keypost/protocol/extension.py", "_check_devices"): {"ids != sorted(set(ids))": "ids of devices"},
    ("keypost/protocol/rsa.py", "_check_canonical"): {"public_key_to_der(public_key) != der": "public keys"},
    ("keypost/protocol/sessions.py", "_names_current_keys"): {
        "set(extension.recipient_devices) == {DeviceKey.of(key) for key in keys}": "devices",
    },
    ("keypost_services/ca/sign_in/id_tokens.py", "_check_issuer"): {"claims.get('iss') != issuer": "an issuer's name"},
    ("keypost_services/ca/sign_in/id_tokens.py", "_check_party"): {
        "claims.get('azp') != client_id": "names of clients"
    },
    ("keypost_services/ca/sign_in/issuer.py", "_check_description"): {
        "description.get('issuer') != issuer": "an issuer's name",
    },
    ("keypost_services/ca/sign_in/issuer_keys.py", "_read_key"): {
        "jwk.get('crv') != form.curve": "what a public key is",
        "jwk.get('alg', name) == name": "what a public key is",
    },
    ("keypost_services/ca/sign_in/oidc_sign_in.py", "_check_same"): {
        "one != identity": "who signs in, as a token says that the issuer has signed",
    },
    ("keypost_services/delivery/slots.py", "SlotMap.agrees"): {"self._nodes == other._nodes": "servers' addresses"},
    ("keypost_services/delivery/cluster.py", "ClusterServers.moved"): {
        "self._map.node_of(error.slot_id) != node": "servers' addresses",
    },
    ("keypost_services/delivery/feeds.py", "Feed._read"): {
        "key_slot(channel.encode()) == error.slot_id": "numbers of slots",
    },
    ("keypost_services/embedded/valkey_cluster.py", "is_settled"): {
        "info['cluster_known_nodes'] == str(known)": "how many servers there are",
    },
    ("keypost_services/delivery/emptying.py", "Emptying._look_up_all"): {
        "self._look_ups[username] != (revision, attempts)": "revisions and counts",
    },
    ("keypost_services/delivery/answers.py", "results"): {"outcome != last": "what became of envelopes"},
    ("keypost_services/embedded/layout.py", "_internal"): {"service_of(name) == service": "names of services"},
    ("keypost_services/embedded/servers.py", "Servers.what_serves"): {"node.name == name": "names of processes"},
    ("keypost_services/delivery/envelopes.py", "KnownExtension.fits"): {
        "header.key_id == extension.key_id": "names of sessions",
        "header.sender_revision == extension.sender_revision": "revisions",
        "header.recipient_revision == extension.recipient_revision": "revisions",
        "header.recipient_username == extension.recipient_username": "usernames",
    },
    ("keypost_services/delivery/judging.py", "Judging._parties"): {"sender == recipient": "usernames"},
    ("keypost_services/delivery/judging.py", "_check_sealed_to_named"): {
        "sorted(named) != sorted((fingerprint for fingerprint, _ in known.sealed_keys))": "fingerprints",
    },
    ("keypost_services/delivery/judging.py", "_check_named_are_good"): {
        "devices == sorted((DeviceKey.of(key) for key in keys))": "devices",
    },
    ("keypost_services/embedded/realm.py", "prepare_realm"): {
        "set(trust.constants.allowed_suites) != set(allowed)": "suites",
    },
    ("keypost_services/embedded/stack.py", "Stack.pid_of"): {"process.name == name": "names of services"},
    (STORY, "Notebook.taken_since"): {"step['list'] == list_name": TOLD},
    (STORY, "Story._enroll"): {
        "self._note.taken_since(mark, 'negotiation') == [1]": TOLD,
        "self.alice.pid != self.bob.pid": "ids of processes",
    },
    (STORY, "Story._write_to_the_offline"): {"steps == list(range(2, 8))": TOLD},
    (STORY, "Story._read"): {"steps == list(range(8, 15))": TOLD},
    (STORY, "Story._write_again"): {"sent['key_id'] == self._first_key_id": TOLD},
    (STORY, "Story._answer"): {"sent['key_id'] == self._first_key_id": TOLD},
    (STORY, "Story._renew"): {
        "steps == list(RENEWAL_TITLES)": TOLD,
        "sent['key_id'] != self._first_key_id": TOLD,
        "both == [list(range(2, 8)), list(range(8, 15))]": TOLD,
    },
    (STORY, "Story._send_file"): {"expected == sent['sha256'] == got": TOLD},
    (STORY, "Story._heard_by"): {"message.get('text') == text": "a text that the demonstration prints"},
    (TELLERS, "HumanTeller._start"): {"event['suite'] == WEAK.name": TOLD},
    (TELLERS, "HumanTeller._step"): {"event['list'] != self._list": TOLD},
    (TELLERS, "HumanTeller._file_progress"): {"event['done'] == event['total']": TOLD},
    (TELLERS, "_summary_table"): {"check['chapter'] == chapter['chapter']": TOLD},
    ("keypost_services/embedded/valkey.py", "Valkey.tidy_up"): {
        "self.socket.parent != self.folder.resolve()": "paths of folders",
    },
}
"""By module and function: comparisons that somebody has looked at, and why they give nothing away."""


def comparisons(source: str) -> list[tuple[str, str]]:
    """Return the function and the text of comparisons for equality whose sides may be secrets."""
    return list(_comparisons(ast.parse(source), ""))


def _comparisons(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Compare) and _may_tell(child):
            yield function, ast.unparse(child)
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        yield from _comparisons(child, inner)


def _may_tell(one: ast.Compare) -> bool:
    is_of_equality = any(isinstance(operator, ast.Eq | ast.NotEq) for operator in one.ops)
    return is_of_equality and not any(is_harmless(side) for side in (one.left, *one.comparators))


def found_in(module: Path) -> set[tuple[str, str, str]]:
    """Return module, function and text of what was found."""
    package = CLIENT if module.is_relative_to(CLIENT) else SERVICES
    name = module.relative_to(package.parent).as_posix()
    return {(name, *one) for one in comparisons(module.read_text(encoding="utf-8"))}


def reviewed() -> set[tuple[str, str, str]]:
    return {(*place, text) for place, texts in REVIEWED.items() for text in texts}


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
    assert found_in(module) - reviewed() == set(), (
        "compare secrets by hmac.compare_digest; what is public belongs into PUBLIC, or into REVIEWED with the reason"
    )


def test_what_was_reviewed_is_still_there() -> None:
    assert reviewed() - set().union(*map(found_in, MODULES)) == set()


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
        "getpass() != passphrase",
        "secret.id == row",
        "password == name",
        "digest == file.sha256",
    ],
)
def test_a_comparison_of_secrets_would_be_noticed(source: str) -> None:
    assert comparisons(source)


@pytest.mark.parametrize("source", ["len(key) != 32", "key.fingerprint == mine", "state == GOOD", "reason == 'X'"])
def test_a_comparison_of_what_is_public_is_left_alone(source: str) -> None:
    assert not comparisons(source)
