"""Label statistics: the filter that selects examples, and the transition matrix."""
