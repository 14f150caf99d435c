"""Files that several processes and hosts share: written whole or not at all, and locked."""
