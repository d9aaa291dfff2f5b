"""Files that a server's TLS follows: handed to gRPC when they change, and at no other time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.tls import BEGIN_SECONDS, FollowedFiles, TlsContent, TlsFiles
from support.tls import issue_tls

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    made = TlsFiles(tmp_path / "public.pem", tmp_path / "public.key")
    renew(made)
    return made


def renew(files: TlsFiles) -> None:
    """Put another pair in the files' place, as whoever renews certificates does."""
    issued = issue_tls()
    for file, content in ((files.certificate, issued.certificate_pem), (files.private_key, issued.private_key_pem)):
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)


def test_content_is_handed_over_once_each_time_it_changes(files: TlsFiles) -> None:
    followed = FollowedFiles(files, make_logger("test", "error", "json", io.StringIO()), wait=lambda _seconds: None)
    first = followed.content.shown
    assert followed.renewed() is None
    renew(files)
    second = followed.renewed()
    assert second is followed.content.shown
    assert second is not first
    assert followed.renewed() is None


def test_those_who_were_told_of_no_change_begin_before_a_change_is_handed_over(files: TlsFiles) -> None:
    waited: list[float] = []
    followed = FollowedFiles(files, make_logger("test", "error", "json", io.StringIO()), wait=waited.append)
    assert followed.renewed() is None
    assert waited == [], "only what changes may cost a handshake time"
    renew(files)
    assert followed.renewed() is not None
    assert waited == [BEGIN_SECONDS]


def test_what_was_noticed_meanwhile_is_handed_over_at_the_next_connection(files: TlsFiles) -> None:
    waited: list[float] = []
    followed = FollowedFiles(files, make_logger("test", "error", "json", io.StringIO()), wait=waited.append)
    renew(files)
    followed.look()
    assert waited == []
    assert followed.renewed() is followed.content.shown
    assert (waited, followed.renewed()) == ([BEGIN_SECONDS], None)


def test_files_that_are_no_good_are_read_once_however_often_somebody_connects(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: whoever connects, without any certificate, would have a key checked and a line written each time."""
    log = io.StringIO()
    followed = FollowedFiles(files, make_logger("test", "debug", "json", log), wait=lambda _seconds: None)
    read: list[TlsFiles] = []
    load = TlsFiles.load

    def counted(self: TlsFiles) -> TlsContent:
        read.append(self)
        return load(self)

    monkeypatch.setattr(TlsFiles, "load", counted)
    files.private_key.write_bytes(issue_tls().private_key_pem)  # not the certificate's
    for _ in range(50):
        assert followed.renewed() is None
    files.certificate.unlink()
    for _ in range(50):
        assert followed.renewed() is None
    assert len(read) == 2
    assert log.getvalue().count("certificate not renewed") == 2
    assert followed.refused is not None


def test_what_was_in_the_way_is_looked_for_again_though_no_file_has_changed(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    followed = FollowedFiles(files, make_logger("test", "debug", "json", log), wait=lambda _seconds: None)
    renew(files)

    def fail(_self: TlsFiles) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(TlsFiles, "load", fail)
        for _ in range(3):
            followed.look(again=True)
    assert log.getvalue().count("certificate not renewed") == 1
    assert followed.renewed() is None
    followed.look(again=True)
    assert followed.refused is None
    assert followed.renewed() is followed.content.shown


def test_a_file_that_is_no_good_changes_nothing_until_it_is_mended(files: TlsFiles) -> None:
    followed = FollowedFiles(files, make_logger("test", "error", "json", io.StringIO()), wait=lambda _seconds: None)
    first = followed.content
    files.private_key.write_text("half a file")
    assert followed.renewed() is None
    files.certificate.unlink()
    assert followed.renewed() is None
    assert followed.content is first
    renew(files)
    assert followed.renewed() is not None
