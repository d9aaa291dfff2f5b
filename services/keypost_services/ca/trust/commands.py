"""What the commands about root keys, record keys and trust statements do, apart from reading arguments and printing."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keypost.errors import KeypostError
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import REALM_TRUST, fingerprint
from keypost.protocol.realm_trust import MOST_EARLIER, read_realm_trust
from keypost.protocol.signing import Ed25519Signer, sign_statement
from keypost.protocol.signing import load_public_key as load_ed25519_key
from keypost_services.ca.files import replace_private, write_private
from keypost_services.ca.printing import CommandError
from keypost_services.ca.trust.drafts import Draft, Edits, draft_next, read_draft
from keypost_services.ca.trust.key_files import (
    KeyFileError,
    load_public_key,
    load_public_keys,
    load_signer,
    public_pem,
    write_key,
)
from keypost_services.ca.trust.realm import active_key
from keypost_services.ca.trust.realm_files import (
    RealmFilesError,
    RealmFolder,
    load_realm,
    load_statement,
    statement_json,
)
from keypost_services.ca.trust.review import changes, problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from keypost.protocol.realm_trust import RealmTrust, RecordKey
    from keypost_services.ca.trust.key_files import AskPassphrase
    from keypost_services.ca.trust.realm import Realm

_WHENEVER = 0
"""As the time: a statement that has expired can still be replaced."""


@dataclass(frozen=True)
class Review:
    """What a draft would change, for whoever is to sign it.

    Attributes:
        draft: The draft.
        root_key: The root key that is to sign (SubjectPublicKeyInfo, DER).
        changes: A line for each change.
        problems: A sentence for each change that is likely a mistake.
    """

    draft: Draft
    root_key: bytes
    changes: list[str]
    problems: list[str]


def new_key(file: Path, passphrase: str | None, *, public: Path | None = None) -> dict[str, object]:
    """Make a key pair in new files; return what there is to know of it.

    Args:
        file: The private key.
        passphrase: Seals it; None: nothing does.
        public: The public key, in PEM.

    Raises:
        CommandError: a file is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public_key_der = Ed25519Signer(key).public_key_der
    with _writing(file):
        if public is not None:
            write_private(public, public_pem(public_key_der))
        write_key(file, key, passphrase)
    made: dict[str, object] = {"fingerprint": fingerprint(public_key_der).hex(), "private_key": str(file)}
    return made if public is None else {**made, "public_key": str(public)}


def new_record_key(folder: Path, passphrase: str | None) -> dict[str, object]:
    """Make a record key in the realm's folder; the realm's trust does not list it yet.

    Raises:
        CommandError: it cannot be written.
    """
    name = os.urandom(4).hex()
    return new_key(folder / f"record-{name}.key", passphrase, public=folder / f"record-{name}.pem")


def draft(folder: Path, file: Path, edits: Edits, now: int) -> list[str]:
    """Write the draft of the next trust statement into a new file; return what it changes.

    Raises:
        CommandError: an edit cannot be made, or the file is there already.
    """
    trust = _realm(folder).trust
    try:
        made = draft_next(trust, edits, now)
        after = made.next
    except (ValueError, KeypostError) as error:
        raise CommandError(str(error)) from error
    with _writing(file):
        write_private(file, made.to_json())
    return changes(trust, after)


def public_keys(files: Sequence[Path]) -> list[bytes]:
    """Return the public keys in these files: PEM, or beside private keys.

    Raises:
        CommandError: a file holds none.
    """
    try:
        return [load_public_key(file) for file in files]
    except KeyFileError as error:
        raise CommandError(str(error)) from error


def review(draft_file: Path, root_key: Path, known_roots: Sequence[Path], now: int) -> Review:
    """Return what a draft would change, after checking that this root key may sign it.

    Args:
        draft_file: As ``draft`` wrote it.
        root_key: The private root key; it is not opened.
        known_roots: Public root keys (PEM) that are trusted besides it.
        now: Unix milliseconds.

    Raises:
        CommandError: it may not.
    """
    try:
        made = read_draft(draft_file)
        own = load_public_key(root_key)
        known = [own, *(key for file in known_roots for key in load_public_keys(file))]
        before, after = _previous(made, known), made.next
        _check_keys(after)
    except (RealmFilesError, KeyFileError, KeypostError) as error:
        raise CommandError(str(error)) from error
    _check_may_sign(own, before, after)
    return Review(made, own, changes(before, after), problems(before, after, now))


def sign(reviewed: Review, root_key: Path, ask: AskPassphrase, file: Path) -> dict[str, object]:
    """Sign a draft and write the statement into a new file; return what there is to know of it.

    Raises:
        CommandError: the passphrase is wrong, or the file is there already.
    """
    try:
        signer = load_signer(root_key, ask)
    except KeyFileError as error:
        raise CommandError(str(error)) from error
    statement = reviewed.draft.statement
    signed = pb.SignedRealmTrust(
        realm_trust=statement,
        signature=sign_statement(signer, REALM_TRUST, statement),
        root_key_fingerprint=fingerprint(signer.public_key_der),
    )
    with _writing(file):
        write_private(file, statement_json(signed))
    after = reviewed.draft.next
    return {"realm": after.realm, "sequence": after.sequence, "until_time": after.until_time, "realm_trust": str(file)}


def install(folder: Path, signed_file: Path, now: int, *, force: bool) -> dict[str, object]:
    """Put the next trust statement into the realm's folder, where a CA that serves takes it up.

    Args:
        folder: The realm's.
        signed_file: As ``sign`` wrote it.
        now: Unix milliseconds.
        force: Also if this CA could sign no record then.

    Raises:
        CommandError: it is no successor of the one that is there, or cannot be written.
    """
    files, realm = RealmFolder(folder), _realm(folder)
    try:
        signed = load_statement(signed_file)
        trust = read_realm_trust(signed, realm=realm.trust.realm, root_keys=(), now=now, previous=realm.trust)
    except (RealmFilesError, KeypostError) as error:
        raise CommandError(f"{signed_file}: {error}") from error
    if trust.sequence == realm.trust.sequence:
        raise CommandError(f"{signed_file}: trust statement {trust.sequence} is installed already")
    if not force:
        _check_can_sign(files, trust, now)
    try:
        _keep_hand_over(files, realm)
        replace_private(files.realm_trust, statement_json(signed))
    except OSError as error:
        raise CommandError(f"cannot write into {folder}: {error.strerror}") from error
    return {"realm": trust.realm, "sequence": trust.sequence, "until_time": trust.until_time}


def show(folder: Path, now: int) -> dict[str, object]:
    """Return what the realm's trust says, and at which stage its keys are.

    Raises:
        CommandError: a file is missing or wrong.
    """
    trust, own = _realm(folder).trust, _own_keys(RealmFolder(folder))
    return {
        "realm": trust.realm,
        "sequence": trust.sequence,
        "until_time": trust.until_time,
        "root_keys": [fingerprint(key).hex() for key in trust.root_keys],
        "record_keys": [
            {
                "fingerprint": key.fingerprint.hex(),
                "stage": stage_of(key, _signing(trust, own, now), now),
                "from_time": key.from_time,
                "until_time": key.until_time,
                "private_key_here": key.public_key_der in own,
            }
            for key in trust.record_keys
        ],
    }


def stage_of(key: RecordKey, signing: RecordKey | None, now: int) -> str:
    """Return at which stage of its roll-over a record key that is listed is.

    Args:
        key: The key.
        signing: The key that signs now.
        now: Unix milliseconds.
    """
    if key == signing:
        return "active"
    if now < key.from_time:
        return "prepared"
    return "in force" if now < key.until_time else "over"


def _realm(folder: Path) -> Realm:
    try:
        return load_realm(RealmFolder(folder), _WHENEVER)
    except RealmFilesError as error:
        raise CommandError(str(error)) from error


def _previous(made: Draft, known: Sequence[bytes]) -> RealmTrust:
    return read_realm_trust(made.previous, realm=made.next.realm, root_keys=known, now=_WHENEVER)


def _check_may_sign(own: bytes, before: RealmTrust, after: RealmTrust) -> None:
    if own not in before.root_keys:
        raise CommandError("this root key may not sign: the statement before does not list it")
    if own not in after.root_keys:
        raise CommandError(
            "this root key may not sign: the statement does not list it, and those who start from what it "
            "lists could not verify it; have one sign that stays"
        )
    if after.sequence <= before.sequence:
        raise CommandError(f"the sequence {after.sequence} is not above {before.sequence}: no client would accept it")


def _check_keys(after: RealmTrust) -> None:
    """Raise KeyRefusedError unless all keys that a statement lists are Ed25519."""
    for key in (*after.root_keys, *(key.public_key_der for key in after.record_keys)):
        load_ed25519_key(key)


def _own_keys(files: RealmFolder) -> set[bytes]:
    return set(public_keys(files.record_keys))


def _signing(trust: RealmTrust, own: set[bytes], now: int) -> RecordKey | None:
    try:
        return active_key([key for key in trust.record_keys if key.public_key_der in own], now)
    except KeypostError:
        return None


def _check_can_sign(files: RealmFolder, trust: RealmTrust, now: int) -> None:
    if _signing(trust, _own_keys(files), now) is None:
        raise CommandError(
            f"none of the record keys in {files.path} would be in force: no record could be signed (--force, if they "
            "are kept elsewhere)"
        )


def _keep_hand_over(files: RealmFolder, realm: Realm) -> None:
    """Keep the statement that is to be replaced, if root keys handed over by it: clients follow them one by one."""
    before = (load_statement(file) for file in files.earlier_statements[-1:])
    known = next((set(_roots(signed)) for signed in before), set(realm.first_root_keys))
    if set(realm.trust.root_keys) == known:
        return
    if len(realm.earlier) >= MOST_EARLIER:
        raise CommandError(f"root keys have handed over {MOST_EARLIER} times: clients follow no further")
    files.earlier.mkdir(mode=0o700, exist_ok=True)
    replace_private(files.earlier / f"{realm.trust.sequence}.json", statement_json(realm.trust.signed))


def _roots(signed: pb.SignedRealmTrust) -> list[bytes]:
    return [key.public_key_der for key in pb.RealmTrust.FromString(signed.realm_trust).root_keys]


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Say in one line why new files cannot be written."""
    try:
        yield
    except FileExistsError as error:
        raise CommandError(f"{error.filename} is there already: nothing is overwritten") from error
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error
