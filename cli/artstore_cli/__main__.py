"""`python -m artstore_cli`: the commands of `./artstore`."""

from .app import app

app(prog_name="artstore")
