"""What takes the place of a defence that does more than defend: the same without the defence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.protocol.continuity import Pins, pin
from keypost.protocol.suites import STRONG, Suite

if TYPE_CHECKING:
    from keypost.protocol.key_info import KeyRecord


def pin_whatever_comes(_pins: Pins | None, record: KeyRecord, minimum: Suite = STRONG) -> Pins:
    return pin(record, minimum)
