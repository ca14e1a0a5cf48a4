"""Many files in one request: the form that carries them, and the one commit that makes them visible."""
