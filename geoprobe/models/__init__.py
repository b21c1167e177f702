"""A checkpoint made runnable: series, loading, layouts, capture."""
