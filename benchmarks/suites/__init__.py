"""The comparisons, one module for each kind."""
