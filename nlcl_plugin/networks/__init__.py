"""Network files: loaded safely, described by themselves, in other formats."""
