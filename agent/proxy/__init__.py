"""Connections: outbound, inbound, the relay between two legs, and the register of those that live."""
