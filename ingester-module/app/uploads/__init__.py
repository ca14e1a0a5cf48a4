"""Uploads: the body of a request, its description of the file, and the saga that stores it."""
