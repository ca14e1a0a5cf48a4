"""Where an element's files lie: on its own disk, or in a bucket. base.py is the contract, one conformance suite tests both."""
