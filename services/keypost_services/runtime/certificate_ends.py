"""When the certificates of a service end: of each that a port shows or asks for, as it is in use.

A file may have been renewed and be no good: then what ends is what was there before.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from keypost_services.runtime.tls import ends_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from keypost_services.runtime.config import ServiceSettings
    from keypost_services.runtime.health import Health
    from keypost_services.runtime.metrics import HealthMetrics
    from keypost_services.runtime.tls import FollowedFiles

CERTIFICATES = "certificates"
LOOK_SECONDS = 60.0
PUBLIC, INTERNAL, ROOTS = "tls_certificate", "internal_tls_certificate", "internal_tls_root"


class CertificateEnds:
    """Says again and again when the certificates end.

    Args:
        settings: Name the files.
        followed: What the ports follow, by the setting of the certificate. What no port shows is read from its file.
        metrics: Where it is said.
        health: Where it is said that a file is no good.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        followed: Mapping[str, FollowedFiles],
        metrics: HealthMetrics,
        health: Health,
    ) -> None:
        self._followed = followed
        named = (PUBLIC, INTERNAL, ROOTS)
        in_use = {*followed, *([ROOTS] if INTERNAL in followed else [])}
        self._files = {field: file for field in named if (file := getattr(settings, field)) and field not in in_use}
        self._metrics = metrics
        self._health = health

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look at every certificate once."""
        problems = [await self._of_port(*named) for named in self._followed.items()]
        problems += [await self._of_file(*named) for named in self._files.items()]
        self._health.set_degraded(CERTIFICATES, "; ".join(filter(None, problems)) or None)

    async def _of_port(self, field: str, followed: FollowedFiles) -> str | None:
        # Without this a port where nobody connects anew would show the end of what it does not use any more.
        await asyncio.to_thread(followed.look, again=True)
        self._say(field, followed.content.ends)
        if followed.content.root_ends is not None:
            self._say(ROOTS, followed.content.root_ends)
        return followed.refused and f"{followed.files.certificate}: {followed.refused}"

    async def _of_file(self, field: str, file: Path) -> str | None:
        try:
            self._say(field, ends_of(await asyncio.to_thread(file.read_bytes)))
        except (OSError, ValueError) as error:
            return f"{file}: {error}"
        return None

    def _say(self, field: str, ends: Sequence[float]) -> None:
        # Of a chain all are needed; of roots one that is in force is enough while another one goes.
        self._metrics.certificate_end_time.labels(field).set(max(ends) if field == ROOTS else min(ends))
