"""Kubeflow pipelines over the components, and what compiles and runs them."""
