"""HTTP routes, one file per resource: parse the request, call the room that does the work, return."""
