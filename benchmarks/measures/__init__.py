"""Programs that measure inside of their own process; each prints its samples as JSON."""
