"""Update and delete of a file: forwarded to the element that holds it, or queued at admin while that is
unavailable."""
