"""`microtorch.compile`: record a function once, fuse what it did, run it as one native program."""
