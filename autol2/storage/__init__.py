"""Files that several processes and hosts share: atomic writes and locks."""
