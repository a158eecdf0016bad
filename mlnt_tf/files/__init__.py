"""File access: locks, atomic writing, the cache, and results with a checksum."""
