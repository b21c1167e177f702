"""Whether a model's geometry moved: baselines, expectations, comparison, verdict."""
