"""``keypost-delivery``: the delivery service's command."""

from __future__ import annotations

from keypost_services.delivery.compose import compose
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.runtime.process import service_main

DESCRIPTION = "The delivery service of Keypost: stores sealed messages and hands them to their recipients' devices."


def main() -> None:
    """Serve until SIGTERM."""
    service_main("delivery", DESCRIPTION, DeliverySettings, compose)


if __name__ == "__main__":
    main()
