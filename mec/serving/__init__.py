"""The scorer: raw request values to click probabilities, from codes in the online store."""
