"""No data class of Keypost, of client or services, shows a field whose name is that of a secret."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re

import pytest

import keypost
import keypost_services
from support.secret_story import data_classes

SECRET = re.compile(
    r"(^|_)(passphrase|password|private_key|session_key|code|code_hash|token|secret|content|body|data_key|password"
    r"|plaintext|url|redis_url)(_der|_pem)?$|^key$"
)
REVIEWED = {
    "keypost.client.results.SafetyNumber.code": "the text of a QR code that is shown to people",
    "keypost_services.ca.administration.certificate_request.MadeRequest.private_key": "the path of the file",
    "keypost_services.ca.administration.command_line.Options.private_key": "the path of the file",
    "keypost_services.ca.store.Change.key": "a public key on record",
    "keypost_services.ca.store.DrawnCode.code": "what is kept of a code, which shows no hash",
    "keypost_services.delivery.functions.Call.key": "the name of what Valkey keeps",
    "keypost_services.delivery.wake_up_hook.gateway.HttpsGateway.url": "never shown: its repr is written by hand",
    "keypost_services.runtime.auth.Caller.key": "a public key on record",
    "keypost_services.runtime.auth.FoundKey.key": "a public key on record",
    "keypost_services.runtime.calls._Outcome.code": "a status of gRPC",
    "keypost_services.runtime.refusals.Refusal.code": "a status of gRPC",
    "keypost_services.runtime.tls.TlsFiles.private_key": "the path of the file",
}


def every_data_class() -> list[type]:
    for package in (keypost, keypost_services):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "migrations" not in module.name and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    return data_classes()


def fields() -> dict[str, dataclasses.Field[object]]:
    return {
        f"{kind.__module__}.{kind.__qualname__}.{field.name}": field
        for kind in every_data_class()
        for field in dataclasses.fields(kind)
    }


def test_no_field_named_like_a_secret_is_shown() -> None:
    shown = {name for name, field in fields().items() if SECRET.search(field.name) and field.repr}
    assert shown - REVIEWED.keys() == set(), "make it field(repr=False), or say in REVIEWED why it is no secret"


@pytest.mark.parametrize(
    "name",
    [
        "keypost.keystore.unlock.Passphrase.passphrase",
        "keypost.keystore.values.KeyPair.private_key_der",
        "keypost.keystore.values.StoredSession.session_key",
        "keypost.keystore.values.OutgoingMessage.content",
        "keypost.protocol.extension.Session.key",
        "keypost.protocol.key_requests.DeviceKeyPair.private_key",
        "keypost.client.results.Received.body",
        "keypost.transport.tokens._Cached.token",
        "keypost_services.ca.sign_in.port.Proof.code",
        "keypost_services.ca.codes.MadeCode.code",
        "keypost_services.ca.administration.access.Access.private_key",
    ],
)
def test_the_names_of_secrets_are_known(name: str) -> None:
    field = fields()[name]
    assert SECRET.search(field.name)
    assert not field.repr
