"""The ingester: stores, changes and deletes files, and acknowledges only what is durable.

It checks an upload, chooses a storage element, streams the file there and has admin commit the saga. It forwards updates and
deletes to the element that holds the file. It keeps no state between requests.
"""
