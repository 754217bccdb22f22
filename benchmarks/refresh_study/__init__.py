"""The refresh benchmark: what refreshed codes are worth, how long they last, and what they cost."""
