"""Which node of a cluster has which slots: read from ``CLUSTER SLOTS``, pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS = 16_384
Node = tuple[str, int]
"""Host and port."""


@dataclass
class SlotMap:
    """Who has which slots.

    Attributes:
        masters: The nodes that have slots.
        replicas: The nodes that follow one of those.
    """

    masters: list[Node] = field(default_factory=list)
    replicas: list[Node] = field(default_factory=list)
    _nodes: list[Node | None] = field(default_factory=lambda: [None] * SLOTS, repr=False)

    def node_of(self, slot: int) -> Node | None:
        """Return the node that has a slot; None if none has."""
        return self._nodes[slot]

    def agrees(self, other: SlotMap) -> bool:
        """Return whether another map has every slot at the same node."""
        return self._nodes == other._nodes

    def move(self, slot: int, node: Node) -> None:
        """Take note that a node has a slot now."""
        self._nodes[slot] = node
        if node in self.replicas:
            self.replicas.remove(node)
        if node not in self.masters:
            self.masters.append(node)


def read_slots(reply: Sequence[Sequence[Any]], asked: Node) -> SlotMap:
    """Return what a node says of the slots.

    Args:
        reply: Its answer to ``CLUSTER SLOTS``: for each range of slots its first and last, the master, and replicas;
            a node is host (bytes; empty or None: the one that was asked), port, and more.
        asked: The node that was asked.
    """
    found = SlotMap()
    for first, last, master, *replicas in reply:
        node = _node(master, asked)
        found._nodes[first : last + 1] = [node] * (last - first + 1)  # noqa: SLF001  # its own maker
        if node not in found.masters:
            found.masters.append(node)
        for replica in (_node(one, asked) for one in replicas):
            if replica not in found.replicas:
                found.replicas.append(replica)
    return found


def _node(entry: Sequence[Any], asked: Node) -> Node:
    host = entry[0].decode() if entry[0] else ""
    # "?" is what a node says that does not know its own name.
    return (host if host not in ("", "?") else asked[0]), int(entry[1])
