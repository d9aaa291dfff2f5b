"""``keypost-delivery``: the delivery service's command; says what to install where its parts are missing."""

from __future__ import annotations

from keypost.programs import end_on_sigterm, needs_extra

DESCRIPTION = "The delivery service of Keypost: stores sealed messages and hands them to their recipients' devices."


def main() -> None:
    """Run the command that the arguments name."""
    end_on_sigterm()
    with needs_extra("keypost-delivery", "services"):
        # Its libraries may be missing.
        from keypost_services.delivery.compose import compose  # noqa: PLC0415
        from keypost_services.delivery.settings import DeliverySettings  # noqa: PLC0415
        from keypost_services.runtime.process import service_app  # noqa: PLC0415
    service_app("delivery", DESCRIPTION, DeliverySettings, compose)()


if __name__ == "__main__":
    main()
