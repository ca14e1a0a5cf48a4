"""The commands, one file for each topic.

All files are loaded for each run of `./artstore`, so they import typer alone: a command imports what it needs when it
runs. `./artstore --help` then takes a tenth of a second.
"""
