"""The signature of wake-ups, held against the example of Standard Webhooks and against bad secrets."""

from __future__ import annotations

import pytest

from keypost_services.delivery.wake_up_hook.signature import read_secrets, signed_headers

EXAMPLE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_example_of_standard_webhooks() -> None:
    headers = signed_headers(
        read_secrets(EXAMPLE), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330_999, b'{"test": 2432232314}'
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_each_secret_signs_while_one_replaces_another() -> None:
    secrets = read_secrets(f"# the new one\n{EXAMPLE}\n\nwhsec_{'A' * 32}\n")
    signature = signed_headers(secrets, "id", 1, b"")["webhook-signature"]
    assert len(signature.split(" ")) == 2
    assert len(set(signature.split(" "))) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "1 to 4 secrets"),
        ("# nothing\n", "1 to 4 secrets"),
        (f"{EXAMPLE}\n" * 5, "1 to 4 secrets"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "line 1 is no secret"),
        (f"{EXAMPLE}\nwhsec_c2hvcnQ=", "line 2 is no secret"),
        ("whsec_" + "A" * 88, "line 1 is no secret"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!", "line 1 is no secret"),
    ],
)
def test_a_bad_file_of_secrets_is_refused_and_not_shown(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        read_secrets(text)
    assert "MfKQ" not in str(raised.value)
