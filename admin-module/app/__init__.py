"""Admin: who may do what, which elements exist, and which distributed transactions are under way.

Owns service accounts, access tokens and their signing keys, the registry of storage elements and its
publishing, upload sagas with their compensations, the audit log and the database schema. It never touches a
file's bytes. Instances keep no state of their own: any of them can serve any request.
"""
