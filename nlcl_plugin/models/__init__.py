"""Training models: one iteration for both frameworks, and BasicSR's models around it."""

from importlib.util import find_spec

if find_spec("basicsr") is not None:  # MMEngine needs none of it
    import basicsr  # noqa: F401  first: its import registers our models, which must not be half imported then
