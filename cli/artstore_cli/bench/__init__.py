"""`./artstore bench`: ArtStore beside SeaweedFS on the same disk, at equal durability."""
