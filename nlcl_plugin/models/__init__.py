"""Training models: one iteration for both frameworks, and BasicSR's models around it."""

import basicsr  # noqa: F401  first: its import registers our models, which must not be half imported then
