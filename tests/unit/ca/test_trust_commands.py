"""The commands about root keys, record keys and trust statements, as they are typed, in this process."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from keypost.clock import DAY, HOUR, system_clock
from keypost.keys.v1 import realm_trust_pb2 as pb
from keypost.protocol.encoding import fingerprint
from keypost.protocol.realm_trust import ServedTrust, follow_realm_trust, read_realm_trust, sign_realm_trust
from keypost_services.ca.acts import trust_installed
from keypost_services.ca.command_line import app
from keypost_services.ca.store import InstalledTrust
from keypost_services.ca.trust import key_files
from keypost_services.ca.trust.key_files import Cost, load_public_keys, load_signer
from keypost_services.ca.trust.realm_files import (
    RealmFolder,
    load_realm,
    load_statement,
    load_statements,
    load_trust,
    statement_json,
)
from support.realm import seeded_signer

if TYPE_CHECKING:
    from typer.testing import Result

    from keypost.protocol.realm_trust import RealmTrust

PASSPHRASE = "correct horse"


@dataclass
class Operator:
    """Somebody who types commands, with a realm and an offline machine in a folder each."""

    folder: Path
    environment: dict[str, str]
    drafts: int = 0

    @property
    def realm(self) -> RealmFolder:
        return RealmFolder(self.folder / "realm")

    @property
    def offline(self) -> Path:
        return self.folder / "offline"

    @property
    def trust(self) -> RealmTrust:
        return load_trust(self.realm, system_clock())

    def run(self, *arguments: object, text: str | None = None) -> Result:
        return CliRunner(env=self.environment).invoke(app, [str(argument) for argument in arguments], input=text)

    def done(self, *arguments: object) -> dict[str, Any]:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        made: dict[str, Any] = json.loads(result.stdout)
        return made

    def refused(self, *arguments: object, text: str | None = None) -> str:
        result = self.run(*arguments, text=text)
        assert result.exit_code == 2, result.stdout
        return result.stderr.splitlines()[-1]

    def draft(self, *edits: object) -> Path:
        self.drafts += 1
        file = self.folder / f"next-{self.drafts}.json"
        self.done("trust", "draft", file, "--realm-folder", self.realm.path, *edits)
        return file

    def sign(self, draft: Path, *options: object, root_key: Path | None = None) -> Path:
        signed = draft.with_name(draft.name.replace("next", "signed"))
        key = root_key or self.offline / "root.key"
        self.done("root", "sign", draft, signed, "--root-key", key, "--yes", *options)
        return signed

    def install(self, signed: Path, *options: object) -> dict[str, Any]:
        return self.done("trust", "install", signed, "--realm-folder", self.realm.path, *options)

    def roll(self, *edits: object, root_key: Path | None = None, options: tuple[object, ...] = ()) -> RealmTrust:
        """Draft, sign and install the next statement; return it."""
        self.install(self.sign(self.draft(*edits), *options, root_key=root_key))
        return self.trust

    def new_record_key(self) -> Path:
        return Path(self.done("record-key", "new", "--realm-folder", self.realm.path)["public_key"])


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setattr(key_files, "Cost", lambda *cost: Cost(*cost) if cost else Cost(64, 1, 1))
    made = Operator(tmp_path, {"KEYPOST_CA_PASSPHRASE": PASSPHRASE})
    assert made.run("init", made.realm.path, "--realm", "example.org").exit_code == 0
    made.offline.mkdir()
    made.realm.root_key.rename(made.offline / "root.key")
    return made


@pytest.mark.parametrize(
    "command", ["root new", "root sign", "record-key new", "trust draft", "trust install", "trust show"]
)
def test_every_command_has_help(operator: Operator, command: str) -> None:
    assert "Usage:" in operator.run(*command.split(), "--help").stdout


def test_the_root_key_of_a_new_realm_is_sealed(operator: Operator) -> None:
    signer = load_signer(operator.offline / "root.key", lambda: PASSPHRASE)
    assert (signer.public_key_der,) == operator.trust.root_keys


def test_a_trust_statement_is_renewed(operator: Operator) -> None:
    before = operator.trust
    after = operator.roll("--validity", "400d", "--extend-record-key", before.record_keys[0].fingerprint.hex()[:8])
    assert after.sequence == 2
    assert after.until_time > before.until_time + 30 * DAY
    assert after.record_keys[0].until_time == after.until_time
    assert (after.root_keys, after.constants) == (before.root_keys, before.constants)


def test_a_record_key_is_prepared_and_retired(operator: Operator) -> None:
    (old,) = operator.trust.record_keys
    public = operator.new_record_key()
    (new_der,) = load_public_keys(public)
    trust = operator.roll("--add-record-key", public, "--in", "3h", "--record-key-validity", "30d")
    assert [key.public_key_der for key in trust.record_keys] == [old.public_key_der, new_der]
    new = trust.record_keys[1]
    assert new.until_time - new.from_time == 30 * DAY
    assert new.from_time - system_clock() > 2 * HOUR
    shown = operator.done("trust", "show", "--realm-folder", operator.realm.path)
    assert [key["stage"] for key in shown["record_keys"]] == ["active", "prepared"]
    assert all(key["private_key_here"] for key in shown["record_keys"])
    draft = operator.draft("--retire-record-key", old.fingerprint.hex()[:12])
    signed = operator.sign(draft, "--force")
    # Nothing could be signed until the other one comes into force.
    said = operator.refused("trust", "install", signed, "--realm-folder", operator.realm.path)
    assert "no record could be signed" in said
    operator.install(signed, "--force")
    assert [key.public_key_der for key in operator.trust.record_keys] == [new_der]


def test_a_root_key_hands_over_and_the_way_there_is_kept(operator: Operator) -> None:
    (old,) = operator.trust.root_keys
    first = load_statement(operator.realm.realm_trust)
    made = operator.done("root", "new", operator.offline / "root-2.key")
    second = operator.offline / "root-2.pem"
    assert made["public_key"] == str(second)
    both = operator.roll("--add-root-key", second)
    assert both.root_keys == (old, *load_public_keys(second))
    known = ("--known-root", operator.realm.root_public)
    alone = operator.roll("--remove-root-key", digits_of(old), root_key=operator.offline / "root-2.key", options=known)
    assert alone.root_keys == load_public_keys(second)
    assert [file.name for file in operator.realm.earlier.iterdir()] == ["2.json"]
    third = operator.roll(root_key=operator.offline / "root-2.key")
    assert [file.name for file in operator.realm.earlier_statements] == ["2.json", "3.json"]
    served = load_statements(operator.realm)
    for roots in ([old], list(load_public_keys(second))):
        assert follow_realm_trust(served, realm="example.org", root_keys=roots, now=system_clock()) == third
    held = follow_realm_trust(ServedTrust(first), realm="example.org", root_keys=[old], now=system_clock())
    assert follow_realm_trust(served, realm="example.org", root_keys=[], now=system_clock(), previous=held) == third
    assert load_realm(operator.realm, system_clock()).first_root_keys == (old,)


def test_a_root_key_never_signs_that_it_goes_itself(operator: Operator) -> None:
    """A bundle that is made then would have the other key alone, and could not verify the statement."""
    (old,) = operator.trust.root_keys
    operator.done("root", "new", operator.offline / "root-2.key")
    draft = operator.draft("--add-root-key", operator.offline / "root-2.pem", "--remove-root-key", digits_of(old))
    arguments = ("root", "sign", draft, operator.folder / "signed.json", "--root-key", operator.offline / "root.key")
    assert "have one sign that stays" in operator.refused(*arguments, "--yes", "--force")
    assert not (operator.folder / "signed.json").exists()


def digits_of(public_key_der: bytes) -> str:
    return fingerprint(public_key_der).hex()[:8]


def test_the_offline_machine_shows_what_it_is_to_sign_and_asks(operator: Operator) -> None:
    public = operator.new_record_key()
    draft = operator.draft("--add-record-key", public, "--constant", "mailbox_age=40d")
    arguments = ("root", "sign", draft, operator.folder / "signed.json", "--root-key", operator.offline / "root.key")
    no = operator.run(*arguments, text="n\n")
    assert no.exit_code == 2
    assert no.stderr.endswith("not signed\n")
    for line in ("~ sequence 1 -> 2", "+ record key ", "~ mailbox_age 2592000000 -> 3456000000"):
        assert line in no.stdout
    assert not (operator.folder / "signed.json").exists()
    assert operator.run(*arguments, text="").exit_code == 2
    yes = operator.run(*arguments, text="y\n")
    assert yes.exit_code == 0, yes.stderr
    assert stat.S_IMODE((operator.folder / "signed.json").stat().st_mode) == 0o600
    assert "nothing is overwritten" in operator.refused(*arguments, text="y\n")


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        (["--constant", "retention=50d"], "retention becomes shorter"),
        (["--constant", "retention=90d"], "retention becomes longer"),
        (["--constant", "renewal_window=1d"], "renewal_window becomes shorter"),
        (["--constant", "record_lifetime=2h"], "record_lifetime becomes longer"),
        (["--constant", "retention=30d"], "retention is shorter than messages may wait"),
        (["--constant", "allowed_suites=RSA1024_AES128"], "RSA3072_AES256 is no longer allowed"),
        (["--validity", "1d"], "ends before the one that it replaces"),
        (["--validity", "20d", "--extend-record-key", "{record}"], "the last record key ends within 30 days"),
        (["--add-record-key", "{new}", "--in", "1s"], "before everybody has fetched"),
    ],
)
def test_what_is_likely_a_mistake_is_signed_by_force_alone(operator: Operator, edits: list[str], why: str) -> None:
    words = {"new": operator.new_record_key(), "record": operator.trust.record_keys[0].fingerprint.hex()}
    draft = operator.draft(*(edit.format(**words) for edit in edits))
    signed = operator.folder / "signed.json"
    arguments = ("root", "sign", draft, signed, "--root-key", operator.offline / "root.key", "--yes")
    said = operator.refused(*arguments)
    assert said.startswith("not signed: ")
    assert why in said
    made = operator.done(*arguments, "--force")
    assert any(why in problem for problem in made["problems"])


def test_a_record_key_whose_records_are_in_use_is_retired_by_force_alone(operator: Operator) -> None:
    (old,) = operator.trust.record_keys
    draft = operator.draft("--add-record-key", operator.new_record_key(), "--retire-record-key", old.fingerprint.hex())
    arguments = (
        "root",
        "sign",
        draft,
        operator.folder / "s.json",
        "--root-key",
        operator.offline / "root.key",
        "--yes",
    )
    assert "while records that it signed are in use" in operator.refused(*arguments)


@pytest.mark.parametrize(
    ("edits", "why"),
    [
        (["--retire-record-key", "00000000"], "does not name"),
        (["--retire-record-key", "{record}"], "no record key would be left"),
        (["--remove-root-key", "{root}"], "no root key would be left"),
        (["--add-record-key", "{record_pem}"], "listed already"),
        (["--add-record-key", "{nothing}"], "cannot read"),
        (["--constant", "retention"], "NAME=VALUE"),
        (["--constant", "age=1d"], "no realm constant 'age'"),
        (["--constant", "retention=long"], "no duration"),
        (["--constant", "allowed_suites=ROT13"], "ROT13"),
        (["--validity", "soon"], "no duration"),
    ],
)
def test_what_cannot_be_drafted_is_said_in_one_line(operator: Operator, edits: list[str], why: str) -> None:
    trust = operator.trust
    record_pem = operator.folder / "record.pem"
    record_pem.write_bytes(key_files.public_pem(trust.record_keys[0].public_key_der))
    words = {
        "record": trust.record_keys[0].fingerprint.hex()[:8],
        "root": digits_of(trust.root_keys[0]),
        "record_pem": record_pem,
        "nothing": operator.folder / "nothing.pem",
    }
    file = operator.folder / "draft.json"
    arguments = [edit.format(**words) for edit in edits]
    assert why in operator.refused("trust", "draft", file, "--realm-folder", operator.realm.path, *arguments)
    assert not file.exists()


def test_no_other_root_key_signs(operator: Operator) -> None:
    operator.done("root", "new", operator.offline / "other.key")
    draft = operator.draft()
    arguments = (
        "root",
        "sign",
        draft,
        operator.folder / "s.json",
        "--yes",
        "--root-key",
        operator.offline / "other.key",
    )
    assert "not signed by a root key" in operator.refused(*arguments)
    known = ("--known-root", operator.realm.root_public)
    assert "may not sign" in operator.refused(*arguments, *known)


def test_a_previous_statement_that_somebody_made_up_is_noticed(operator: Operator) -> None:
    """Whoever has the CA's machine would hide what he changes by showing another statement before it."""
    draft = operator.draft()
    fields = json.loads(draft.read_text())
    previous = pb.RealmTrust.FromString(load_statement(operator.realm.realm_trust).realm_trust)
    previous.record_keys.add(public_key_der=seeded_signer(9).public_key_der, from_time=1, until_time=2**50)
    forged = sign_realm_trust(previous, seeded_signer(9))
    root_key = operator.offline / "root.key"
    forged.root_key_fingerprint = load_signer(root_key, lambda: PASSPHRASE).fingerprint
    fields["previous"] = json.loads(statement_json(forged))
    draft.write_text(json.dumps(fields))
    said = operator.refused("root", "sign", draft, operator.folder / "s.json", "--yes", "--root-key", root_key)
    assert "signature does not match" in said


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"previous": {}, "realm_trust": "AA"}', '{"previous": 1}'])
def test_what_is_no_draft_is_refused(operator: Operator, content: str) -> None:
    draft = operator.folder / "draft.json"
    draft.write_text(content)
    root_key = operator.offline / "root.key"
    said = operator.refused("root", "sign", draft, operator.folder / "s.json", "--root-key", root_key)
    assert "draft" in said


def altered(draft: Path, **changes: bytes) -> None:
    """Change what a draft would have signed, or what it shows as the statement before."""
    fields = json.loads(draft.read_text())
    if "realm_trust" in changes:
        fields["realm_trust"] = base64.b64encode(changes["realm_trust"]).decode()
    if "previous" in changes:
        fields["previous"]["realmTrust"] = base64.b64encode(changes["previous"]).decode()
    draft.write_text(json.dumps(fields))


def test_a_draft_that_lists_what_is_no_key_is_refused(operator: Operator) -> None:
    root_key = operator.offline / "root.key"
    for kind in ("root_keys", "record_keys"):
        draft = operator.draft()
        statement = pb.RealmTrust.FromString(base64.b64decode(json.loads(draft.read_text())["realm_trust"]))
        getattr(statement, kind)[0].public_key_der = b"no key"
        altered(draft, realm_trust=statement.SerializeToString())
        said = operator.refused("root", "sign", draft, operator.folder / "s.json", "--root-key", root_key, "--yes")
        assert "no public key" in said


@pytest.mark.parametrize("part", ["previous", "realm_trust"])
def test_a_draft_that_does_not_parse_is_refused_in_one_line(operator: Operator, part: str) -> None:
    draft, root_key = operator.draft(), operator.offline / "root.key"
    altered(draft, **{part: b"\xff"})
    said = operator.refused("root", "sign", draft, operator.folder / "s.json", "--root-key", root_key, "--yes")
    assert "no RealmTrust" in said


def test_a_sequence_that_is_not_higher_is_never_signed(operator: Operator) -> None:
    draft = operator.draft()
    operator.roll()
    # The same draft against the statement that has come since.
    fields = json.loads(draft.read_text())
    fields["previous"] = json.loads(operator.realm.realm_trust.read_text())
    draft.write_text(json.dumps(fields))
    arguments = ("root", "sign", draft, operator.folder / "s.json", "--root-key", operator.offline / "root.key")
    assert "no client would accept it" in operator.refused(*arguments, "--yes", "--force")


def test_the_wrong_passphrase_signs_nothing(operator: Operator) -> None:
    draft, signed = operator.draft(), operator.folder / "signed.json"
    wrong = operator.folder / "wrong"
    wrong.write_text("Correct Horse\n")
    options = ("--root-key", operator.offline / "root.key", "--yes", "--passphrase-file", wrong)
    assert "does not open" in operator.refused("root", "sign", draft, signed, *options)
    assert not signed.exists()
    wrong.write_text(f"{PASSPHRASE}\n")
    operator.done("root", "sign", draft, signed, *options)


def test_without_a_passphrase_and_a_terminal_it_says_how_to_give_one(operator: Operator) -> None:
    operator.environment = {}
    assert "KEYPOST_CA_PASSPHRASE" in operator.refused("root", "new", operator.folder / "new.key")
    assert "KEYPOST_CA_PASSPHRASE" in operator.refused("init", operator.folder / "r", "--realm", "example.org")
    operator.environment = {"KEYPOST_CA_PASSPHRASE": ""}
    assert "empty passphrase" in operator.refused("root", "new", operator.folder / "new.key")
    assert not (operator.folder / "new.key").exists()


def test_nothing_is_overwritten(operator: Operator) -> None:
    key = operator.offline / "root.key"
    before = key.read_bytes()
    (operator.offline / "root.pem").unlink(missing_ok=True)
    assert "nothing is overwritten" in operator.refused("root", "new", key)
    assert key.read_bytes() == before
    draft = operator.draft()
    assert "nothing is overwritten" in operator.refused("trust", "draft", draft, "--realm-folder", operator.realm.path)


def test_only_a_successor_is_installed(operator: Operator) -> None:
    signed, folder = operator.sign(operator.draft()), ("--realm-folder", operator.realm.path)
    operator.install(signed)
    assert "installed already" in operator.refused("trust", "install", signed, *folder)
    later = operator.sign(operator.draft())
    operator.roll()
    operator.roll()
    assert "comes after" in operator.refused("trust", "install", later, *folder)
    statement = pb.RealmTrust.FromString(load_statement(later).realm_trust)
    statement.sequence = 9
    later.write_bytes(statement_json(sign_realm_trust(statement, seeded_signer(9))))
    assert "not signed by a root key" in operator.refused("trust", "install", later, *folder)


def test_an_old_copy_of_the_folder_takes_the_statements_of_the_audit_log_in_their_order(operator: Operator) -> None:
    """As docs/ca-keys.md says it; with the statements by which root keys hand over, clients find the way."""
    old, (root,) = copy_of(operator), operator.trust.root_keys
    operator.done("root", "new", operator.offline / "root-2.key")
    entered = [operator.roll("--add-root-key", operator.offline / "root-2.pem")]
    known = ("--known-root", operator.realm.root_public)
    entered.append(
        operator.roll("--remove-root-key", digits_of(root), root_key=operator.offline / "root-2.key", options=known)
    )
    files = [entered_file(trust, operator.folder) for trust in entered]
    assert "not signed by a root key" in old.refused("trust", "install", files[1], "--realm-folder", old.realm.path)
    for file in files:
        old.install(file)
    assert [file.read_bytes() for file in files] == [
        *(file.read_bytes() for file in old.realm.earlier_statements),
        operator.realm.realm_trust.read_bytes(),
    ]
    assert load_realm(old.realm, system_clock()) == load_realm(operator.realm, system_clock())


def test_two_statements_of_one_sequence_are_ended_by_the_one_after_them(operator: Operator) -> None:
    old, validity = copy_of(operator), ("--validity", "400d")
    out = operator.roll()
    old.roll(*validity)
    file = entered_file(out, operator.folder)
    assert "comes after 2" in old.refused("trust", "install", file, "--realm-folder", old.realm.path)
    after = old.roll(*validity)
    taken = read_realm_trust(after.signed, realm="example.org", root_keys=(), now=system_clock(), previous=out)
    assert taken.sequence == 3


def copy_of(operator: Operator) -> Operator:
    """Return somebody who has the realm's folder as it is now, and the same offline machine."""
    folder = operator.folder / "old"
    folder.mkdir()
    copytree(operator.realm.path, folder / "realm")
    (folder / "offline").symlink_to(operator.offline)
    return Operator(folder, operator.environment)


def entered_file(trust: RealmTrust, folder: Path) -> Path:
    """Return a file that is made of a statement's entry in the audit log."""
    (entry, *_) = trust_installed(InstalledTrust(trust.signed, system_clock()), b"")
    file = folder / f"entered-{trust.sequence}.json"
    file.write_bytes(statement_json(pb.SignedRealmTrust.FromString(entry.evidence)))
    return file


def test_a_statement_that_has_expired_can_still_be_replaced(operator: Operator) -> None:
    statement = pb.RealmTrust.FromString(load_statement(operator.realm.realm_trust).realm_trust)
    statement.until_time = 1
    root = load_signer(operator.offline / "root.key", lambda: PASSPHRASE)
    operator.realm.realm_trust.write_bytes(statement_json(sign_realm_trust(statement, root)))
    assert operator.roll().sequence == 2


def test_a_record_key_may_be_sealed(operator: Operator) -> None:
    made = operator.done("record-key", "new", "--realm-folder", operator.realm.path, "--sealed")
    assert load_signer(Path(made["private_key"]), lambda: PASSPHRASE).fingerprint.hex() == made["fingerprint"]
    assert stat.S_IMODE(Path(made["private_key"]).stat().st_mode) == 0o600


def test_people_read_what_the_trust_says(operator: Operator) -> None:
    shown = operator.run("trust", "show", "--realm-folder", operator.realm.path).stdout
    assert "  stage: active\n" in shown
    assert "sequence: 1\n" in shown
