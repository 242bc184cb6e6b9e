"""Numbers with their uncertainty: resampling of (task, variation) clusters, hulls, rank agreement, mutual information."""
