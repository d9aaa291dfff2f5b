import pytest

from keypost.protocol.errors import ContentRefusedError
from keypost.protocol.padding import pad, unpad


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        bytes(255),
        pad(b"content") + b"\0",
        pad(b"content")[:-1] + b"\1",
        (1 << 63).to_bytes(8, "big") + bytes(248),
        (249).to_bytes(8, "big") + bytes(248),
        (3).to_bytes(8, "big") + b"abcd" + bytes(244),
    ],
    ids=["empty", "short", "long", "not zeros", "huge length", "beyond its end", "content beyond its length"],
)
def test_padding_that_is_not_the_one_is_refused(padded: bytes) -> None:
    with pytest.raises(ContentRefusedError):
        unpad(padded)
