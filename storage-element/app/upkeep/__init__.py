"""Background work beside the operations: reconcile catalog and counters with the disk, check bytes against
checksums, remove expired files and orphans. Each task may be interrupted anywhere and resumes later.
"""
