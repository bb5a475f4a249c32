"""Images in LMDBs, in BasicSR's layout."""
