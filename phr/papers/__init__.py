"""What files from outside say: told from their bytes, and read in a process of its own.

Readers are pure functions that only `child` runs; the rest of the house calls `apart.read`.
Nothing here knows a store, a page or the network.
"""
