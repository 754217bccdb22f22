"""What keeps codes fresh while the backbone stays as it is: one module per part of a refresh."""
