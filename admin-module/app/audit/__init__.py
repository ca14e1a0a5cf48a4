"""The audit log: signed hash chains in which every later change can be detected."""
