"""The HTTP interface: paths, parameters, headers. `reading` and `search` make the decisions."""
