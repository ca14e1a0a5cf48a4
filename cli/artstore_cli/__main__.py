"""`python -m artstore_cli`: the commands of `./artstore`."""

from .app import main

main()
