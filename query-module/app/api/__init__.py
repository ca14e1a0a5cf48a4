"""The HTTP side: paths, parameters, headers. Decisions are made in `reading` and `search`."""
