from __future__ import annotations

from support.ca_service import ca

__all__ = ["ca"]
