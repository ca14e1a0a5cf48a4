"""An air-gapped installation in one file: the source code, all wheels, their hashes and a bill of materials."""
