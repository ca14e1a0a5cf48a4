"""What tests of several modules need. Nothing here is imported by a running service."""
