"""Image storage in arrays, files or shards, decoding, and the scan for damaged files."""
