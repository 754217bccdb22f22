"""The steps of the pipelines: one folder each, a thin Kubeflow adapter over one function of ``mec``."""
