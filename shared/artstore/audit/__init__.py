"""The audit log: events in chains that cannot be rewritten unseen, written by every service, checked by
anyone."""
