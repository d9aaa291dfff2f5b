"""``keypost-delivery``: the delivery service's command."""

from __future__ import annotations

from keypost_services.delivery.compose import compose
from keypost_services.delivery.settings import DeliverySettings
from keypost_services.runtime.process import service_app

DESCRIPTION = "The delivery service of Keypost: stores sealed messages and hands them to their recipients' devices."
app = service_app("delivery", DESCRIPTION, DeliverySettings, compose)


def main() -> None:
    """Run the command that the arguments name."""
    app()


if __name__ == "__main__":
    main()
