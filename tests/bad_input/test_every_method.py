"""No method is left out."""

from __future__ import annotations

from keypost_services.runtime.method_table import METHODS
from support.bad_input import ca, delivery, directory


def test_bad_input_is_sent_to_every_method() -> None:
    tried = {name.split()[0] for service in (ca, directory, delivery) for name in service.NAMES}
    assert tried == set(METHODS)
