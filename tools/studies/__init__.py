"""Parts of `tools/ablate.py`: what a study trains, how it runs, what it reports."""
