"""Write the vector files anew: ``python tests/vectors/generate.py``.

Keys come from ``tests/support/key_pool.json``, times and names are fixed. RSA-PSS and RSAES-OAEP draw random numbers
that no library lets a caller choose, so those files differ each time they are made: **the committed JSON is the
record**, and the generator is how it came about. A file marked ``"deterministic": true`` is made again, byte for byte;
a test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

FOLDER = Path(__file__).parent
if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parent))

from vectors.generator import (  # noqa: E402 - after the path is set
    administrators,
    continuity,
    hashes,
    key_requests,
    negotiation,
    realm_trust,
    renewal,
    revocations,
    safety_numbers,
    suites,
    texts,
    tokens,
    user_keys,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vectors.generator.files import VectorFile

MAKERS: tuple[Callable[[], VectorFile], ...] = (
    hashes.pae_file,
    hashes.padding_file,
    hashes.keys_file,
    hashes.key_id_file,
    hashes.message_key_file,
    hashes.associated_data_file,
    suites.suites_file,
    realm_trust.realm_trust_file,
    key_requests.key_requests_file,
    user_keys.user_keys_file,
    continuity.continuity_file,
    negotiation.negotiation_file,
    renewal.renewal_file,
    tokens.tokens_file,
    safety_numbers.safety_number_file,
    texts.texts_file,
    revocations.revocations_file,
    revocations.reset_cancellations_file,
    administrators.administrators_revocations_file,
)


def main() -> None:
    """Write all files."""
    for make in MAKERS:
        make().write(FOLDER)


if __name__ == "__main__":
    main()
