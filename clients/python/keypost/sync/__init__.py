"""The client for code without an event loop: scripts, Django, notebooks.

::

    with keypost.sync.Client.open(profile, unlock=unlock) as client:
        client.send("bob", "hello")

Everything is as in ``keypost.Client``, except that calls wait and iterators are plain ones.
"""

from keypost.sync.client import Client
from keypost.sync.results import Received, ReceivedFile

__all__ = ["Client", "Received", "ReceivedFile"]
