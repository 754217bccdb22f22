"""Tables to codes: k-means codebooks, product and residual codes, packed bits."""
