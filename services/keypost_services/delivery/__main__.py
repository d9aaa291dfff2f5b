"""``keypost-delivery``: the delivery service's command; says what to install where its parts are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keypost.programs import end_on_sigterm, needs_extra

if TYPE_CHECKING:
    from keypost_services.delivery.settings import DeliverySettings
    from keypost_services.runtime.serving import Compose

DESCRIPTION = "The delivery service of Keypost: stores sealed messages and hands them to their recipients' devices."


def main() -> None:
    """Run the command that the arguments name."""
    end_on_sigterm()
    with needs_extra("keypost-delivery", "services"):
        from keypost_services.runtime.command_line import service_app  # noqa: PLC0415  # its libraries may be missing

        service_app("delivery", DESCRIPTION, _settings, _compose)()


def _settings() -> type[DeliverySettings]:
    from keypost_services.delivery.settings import DeliverySettings  # noqa: PLC0415  # `serve` alone needs them

    return DeliverySettings


def _compose() -> Compose[DeliverySettings]:
    from keypost_services.delivery.compose import compose  # noqa: PLC0415  # `serve` alone needs it

    return compose


if __name__ == "__main__":
    main()
