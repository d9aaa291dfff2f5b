from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from keypost.protocol.errors import ProtocolError
from vectors import verify
from vectors.core import administrators, messages, revocations, safety_numbers, statements, texts
from vectors.generate import MAKERS
from vectors.generator.files import flipped
from vectors.verifier.primitives import MismatchError, RefusedError

FOLDER = Path(__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("*.json"))
CORE = {
    "pae": messages.pae,
    "padding": messages.padding_,
    "keys": messages.keys,
    "key_id": messages.key_id,
    "message_key": messages.message_key,
    "associated_data": messages.associated_data,
    "suites": messages.suites,
    "realm_trust": statements.realm_trust,
    "key_requests": statements.key_requests,
    "user_keys": statements.user_keys,
    "continuity": statements.continuity,
    "negotiation": messages.negotiation,
    "renewal": statements.renewal,
    "tokens": messages.tokens,
    "safety_number": safety_numbers.safety_number,
    "texts": texts.texts,
    "revocations": revocations.revocations,
    "reset_cancellations": revocations.reset_cancellations,
    "administrators_revocations": administrators.administrators_revocations,
}
CONTENTS = {name: verify.load(name) for name in FILES}
CASES = [pytest.param(name, case, id=f"{name}: {case['name']}") for name in FILES for case in CONTENTS[name]["cases"]]
MADE = {make.__name__.removesuffix("_file"): make for make in MAKERS}


def test_every_file_has_a_maker_a_verifier_and_a_run_through_the_core() -> None:
    assert set(FILES) == set(verify.CHECKS) == set(CORE) == set(MADE)


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_it_is(name: str) -> None:
    content = CONTENTS[name]
    assert content["description"]
    sections = {line[3:].strip() for line in SPEC.read_text().splitlines() if line.startswith("## ")}
    assert set(content["source"].split("; ")) <= sections
    names = [case["name"] for case in content["cases"]]
    assert len(set(names)) == len(names) > 0


SPEC = FOLDER.parents[1] / "docs" / "spec.md"


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_core_does_what_the_vector_says(name: str, case: dict[str, Any]) -> None:
    shared = verify.shared_of(CONTENTS[name])
    if "must_fail" not in case:
        CORE[name](case, shared)
        return
    with pytest.raises(ProtocolError) as raised:
        CORE[name](case, shared)
    assert raised.value.reason == case["must_fail"], raised.value
    assert raised.value.metadata.get("cause") == case.get("cause")


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_independent_verifier_agrees(name: str, case: dict[str, Any]) -> None:
    verify.verify_case(name, case, verify.shared_of(CONTENTS[name]))


@pytest.mark.parametrize("name", FILES)
def test_the_generator_makes_the_file(name: str) -> None:
    made = json.loads(json.dumps(MADE[name]().to_dict()))
    if CONTENTS[name]["deterministic"]:
        assert made == CONTENTS[name]
    outline = [(case["name"], case.get("must_fail"), case.get("cause")) for case in made["cases"]]
    recorded = [(case["name"], case.get("must_fail"), case.get("cause")) for case in CONTENTS[name]["cases"]]
    assert outline == recorded


FLIPPED = {
    "pae": ["encoding"],
    "padding": ["padded"],
    "keys": ["fingerprint"],
    "key_id": ["key_id", "session_key"],
    "message_key": ["message_key", "session_key"],
    "associated_data": ["associated_data", "extension"],
    "suites": ["sealed_key", "signature", "ciphertext"],
    "realm_trust": ["signed_realm_trust"],
    "key_requests": ["key_request", "fingerprint", "endorsement_hash"],
    "user_keys": ["key_info"],
    "negotiation": ["envelope"],
    "renewal": ["upload", "parent"],
    "safety_number": ["encoding", "root"],
    "texts": ["message"],
    "revocations": ["revocation", "signer"],
    "reset_cancellations": ["reset_cancellation", "signer"],
    "administrators_revocations": ["revocation", "public_key"],
}


@pytest.mark.parametrize(
    ("name", "field", "case"),
    [
        pytest.param(name, field, case, id=f"{name}: {case['name']}: {field}")
        for name, fields in FLIPPED.items()
        for field in fields
        for case in CONTENTS[name]["cases"]
        if "must_fail" not in case and case.get(field)
    ],
)
def test_the_verifier_notices_a_flipped_bit(name: str, field: str, case: dict[str, Any]) -> None:
    value = bytes.fromhex(case[field])
    # In the middle there is always something that a signature, a hash or a tag covers.
    changed = {**case, field: flipped(value, len(value) // 2).hex()}
    with pytest.raises((MismatchError, RefusedError, DecodeError)):
        verify.verify_case(name, changed, verify.shared_of(CONTENTS[name]))


def test_the_verifier_notices_a_flipped_token() -> None:
    case = next(case for case in CONTENTS["tokens"]["cases"] if "must_fail" not in case)
    head, payload, signature = case["token"].split(".")
    changed = {**case, "token": f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"}
    with pytest.raises(RefusedError):
        verify.verify_case("tokens", changed, verify.shared_of(CONTENTS["tokens"]))


def test_the_verifier_does_not_accept_a_failure_that_is_none() -> None:
    case = next(case for case in CONTENTS["suites"]["cases"] if "must_fail" not in case)
    with pytest.raises(MismatchError):
        verify.verify_case("suites", {**case, "must_fail": "SIGNATURE_INVALID"}, verify.shared_of(CONTENTS["suites"]))


def test_the_verifier_does_not_use_what_it_verifies() -> None:
    sources = [FOLDER / "verify.py", *(FOLDER / "verifier").glob("*.py")]
    text = "".join(path.read_text() for path in sources)
    assert "import" in text
    assert not [
        line for line in text.splitlines() if "import" in line and ("keypost.protocol" in line or "support" in line)
    ]
