"""Files that a server's TLS follows: handed to gRPC when they change, and at no other time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from keypost_services.runtime.logs import make_logger
from keypost_services.runtime.tls import BEGIN_SECONDS, FollowedFiles, TlsFiles
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
    first = followed.content
    assert followed.renewed() is None
    renew(files)
    second = followed.renewed()
    assert second is followed.content
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
