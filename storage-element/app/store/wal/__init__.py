"""The write-ahead log: `log` is what the operations use, `writer` its thread, `ring` and `segment` its files, `records` what it
says, and `replay` what it says after a crash. DESIGN.md in the folder above has the format.
"""
