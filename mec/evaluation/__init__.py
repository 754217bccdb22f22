"""What a compressed model is worth: metrics, slices, calibration, bytes, latency, figures and the report."""
