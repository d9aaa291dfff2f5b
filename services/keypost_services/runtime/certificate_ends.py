"""When the certificates of a service end: read from their files, as whoever renews them leaves them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from keypost_services.runtime.config import ServiceSettings
    from keypost_services.runtime.health import Health
    from keypost_services.runtime.metrics import HealthMetrics
    from keypost_services.runtime.serving import Runtime

CERTIFICATES = "certificates"
LOOK_SECONDS = 60.0
OWN = ("tls_certificate", "internal_tls_certificate")
ROOTS = "internal_tls_root"
CALLING = "calling"
"""What a service shows when it calls another one: read when it starts, whatever becomes of the file."""


class CertificateEnds:
    """Says again and again when the certificates end.

    Args:
        settings: Name the files.
        metrics: Where it is said.
        health: Where it is said that a file cannot be read.
    """

    def __init__(self, settings: ServiceSettings, metrics: HealthMetrics, health: Health) -> None:
        self._files = {field: file for field in (*OWN, ROOTS) if (file := getattr(settings, field)) is not None}
        self._metrics = metrics
        self._health = health

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look at every file once."""
        problems = [problem for problem in [await self._measure(*named) for named in self._files.items()] if problem]
        self._health.set_degraded(CERTIFICATES, "; ".join(problems) or None)

    async def _measure(self, field: str, file: Path) -> str | None:
        try:
            ends = await asyncio.to_thread(_ends, file)
        except (OSError, ValueError) as error:
            return f"{file}: {error}"
        # Of a chain all are needed; of roots one that is in force is enough while another one goes.
        self._metrics.certificate_end_time.labels(field).set(max(ends) if field == ROOTS else min(ends))
        return None


def note_calling_certificate(runtime: Runtime[Any]) -> None:
    """Say when the certificate ends by which this service calls others; called where the channel is made."""
    certificate, _, _ = runtime.settings.require_internal_tls()
    runtime.health_metrics.certificate_end_time.labels(CALLING).set(min(_ends(certificate)))


def _ends(file: Path) -> list[float]:
    return [one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(file.read_bytes())]
