"""Everything goes wrong at once, by a schedule that follows from a seed; then it is healed, and what must be true is checked."""
