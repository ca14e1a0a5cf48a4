"""How bytes come in: the body of a request, what it says of itself, and the saga that makes a file of it."""
