"""Many files: lists out of the catalog."""
