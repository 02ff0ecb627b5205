"""Queues, and the clients that empty them into a peer."""
