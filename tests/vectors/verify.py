"""Verify the vector files without Keypost: ``python tests/vectors/verify.py``.

This program was written from docs/spec.md. It uses plain `cryptography`, its own base64 and JSON, and the messages
generated from protos/, but nothing of ``keypost.protocol``. It recomputes every value of every case that must succeed.
Of the cases that must fail it refuses those whose reason is cryptographic, for that reason; where a rule alone is
broken (`RULES`), it finds every signature right.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))

from vectors.verifier import administrators, messages, revocations, safety_numbers, statements, texts  # noqa: E402 - after the path is set
from vectors.verifier.primitives import MismatchError, RefusedError  # noqa: E402

CHECKS = {
    "pae": messages.pae,
    "padding": messages.padding_,
    "keys": messages.keys_,
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

CRYPTOGRAPHIC = frozenset(
    {
        "SIGNATURE_INVALID",
        "POSSESSION_UNPROVEN",
        "SESSION_KEY_REFUSED",
        "KEY_ID_MISMATCH",
        "DECRYPTION_FAILED",
        "KEY_REFUSED",
        "SUITE_UNKNOWN",
        "SAFETY_NUMBER_DIFFERS",
        "TOKEN_REFUSED/BAD_SIGNATURE",
        "TOKEN_REFUSED/WRONG_KEY",
    }
)
"""What this program must refuse, with this very reason."""

RULES = frozenset(
    {
        "RECORD_REFUSED",
        "RECORD_EXPIRED",
        "RECORD_FROM_FUTURE",
        "REALM_TRUST_REGRESSED",
        "RECORD_REGRESSED",
        "EQUIVOCATION",
        "GHOST_DEVICE",
        "IDENTITY_CHANGED",
        "FORK_DETECTED",
        "KEY_EXPIRED",
        "KEY_REVOKED",
        "KEY_SUPERSEDED",
        "MESSAGE_TOO_OLD",
        "CLOCK_AHEAD",
        "SECOND_STATEMENT",
        "TOKEN_REFUSED/EXPIRED",
        "TOKEN_REFUSED/NOT_YET_VALID",
        "TOKEN_REFUSED/WRONG_AUDIENCE",
        "TOKEN_REFUSED/LIVES_TOO_LONG",
    }
)
"""Broken rules: every signature in these cases is right, and this program finds nothing to refuse."""


@cache
def load(name: str) -> dict[str, Any]:
    """Return a vector file."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def shared_of(content: dict[str, Any]) -> dict[str, Any]:
    """Return what the cases of a file refer to."""
    return {**content.get("shared", {}), "keys": {case["name"]: case for case in load("keys")["cases"]}}


def verify_case(name: str, case: dict[str, Any], shared: dict[str, Any]) -> None:
    """Verify one case; raises unless it behaves as it says."""
    expected = case.get("must_fail")
    word = f"{expected}/{case['cause']}" if "cause" in case else expected
    try:
        CHECKS[name](case, shared)
    except RefusedError as refused:
        if expected is None or word in RULES:
            raise
        if word in CRYPTOGRAPHIC and (refused.reason, refused.cause) != (expected, case.get("cause", "")):
            raise MismatchError(f"refused for {refused.reason} {refused.cause} instead of {word}") from refused
    else:
        if word in CRYPTOGRAPHIC:
            raise MismatchError(f"accepted instead of refused for {word}")


def main() -> None:
    """Verify all files."""
    for name in CHECKS:
        content = load(name)
        shared = shared_of(content)
        for case in content["cases"]:
            try:
                verify_case(name, case, shared)
            except Exception as error:
                raise SystemExit(f"{name}.json: {case['name']}: {error!r}") from error
        sys.stdout.write(f"{name}.json: {len(content['cases'])} cases\n")


if __name__ == "__main__":
    main()
