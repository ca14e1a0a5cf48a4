"""The ingester: takes a file and does not say yes until it is safe.

It parses and checks an upload, places it on a storage element, streams it there and has admin commit the saga; updates
and deletes it forwards to the element that holds the file. It keeps no state between requests.
"""
