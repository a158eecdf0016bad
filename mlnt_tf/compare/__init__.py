"""Comparison of methods: the grid of runs, its summary, and the page with table and figures."""
