"""Calls from one module to another: connections, limits, circuit breakers, and the detection of a peer that hangs."""

from artstore.peers.client import Peer, PeerAnswer
from artstore.peers.session import Peers, open_peers

__all__ = ["Peer", "PeerAnswer", "Peers", "open_peers"]
