"""One file per resource: shapes at the edge, and which part of admin answers."""
