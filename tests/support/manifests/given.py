"""What a rendering takes and does not make: docs/kubernetes.md tells the operator to."""

from __future__ import annotations

import functools
import re

from support.pages import ROOT, read

PAGE = ROOT / "docs" / "kubernetes.md"
_ROW = re.compile(r"^\| (Secret|ConfigMap) \| (.+?) \| (.+?) \|", re.MULTILINE)


@functools.cache
def given_by_the_operator() -> dict[tuple[str, str], set[str]]:
    """Return the keys of every Secret and ConfigMap that the page asks for, by kind and name."""
    return {
        (kind, name): set(re.findall(r"`([^`]+)`", keys))
        for kind, names, keys in _ROW.findall(read(PAGE))
        for name in re.findall(r"`([^`]+)`", names)
    }
