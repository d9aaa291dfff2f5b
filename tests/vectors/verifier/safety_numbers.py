"""Checks of the vector file about safety numbers."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import TYPE_CHECKING

from vectors.verifier import primitives as p
from vectors.verifier.primitives import RefusedError, same

if TYPE_CHECKING:
    from vectors.verifier.statements import Case, Shared

LABEL = b"keypost/v1/safety-number"


def safety_number(case: Case, _: Shared) -> None:
    """Check a case of safety_number.json."""
    if "digits" in case:
        same("encoding", case["encoding"], _salt(case["realm"], case).hex())
        same("digits", case["digits"], _digits(case["realm"], case))
        return
    users = sorted(case["own"], key=lambda user: user["username"].encode())
    code = _code(case["realm"], users)
    if "number" in case:
        same("number", case["number"], "".join(_digits(case["realm"], user) for user in users))
        same("code", case["code"], code)
    elif case["scanned"] != code:
        raise RefusedError("SAFETY_NUMBER_DIFFERS")


def _salt(realm: str, user: Case) -> bytes:
    epoch = struct.pack(">Q", user["epoch"])
    return p.pae(LABEL, realm.encode(), user["username"].encode(), epoch, bytes.fromhex(user["root"]))


def _digits(realm: str, user: Case) -> str:
    derived = hashlib.pbkdf2_hmac("sha512", LABEL, _salt(realm, user), 100_000, 30)
    numbers = [int.from_bytes(derived[at : at + 5], "big") % 100_000 for at in range(0, 30, 5)]
    return "".join(f"{number:05d}" for number in numbers)


def _code(realm: str, users: list[Case]) -> str:
    code = f"keypost-safety-number:1:{realm}"
    for user in users:
        root = base64.urlsafe_b64encode(bytes.fromhex(user["root"])).decode().rstrip("=")
        code += f":{user['username']}:{user['epoch']}:{root}"
    return code
