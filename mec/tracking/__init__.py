"""MLflow runs, the model registry, and the gate between challenger and champion."""
