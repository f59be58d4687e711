"""Searches for settings with Ray Tune and Optuna: spaces, objectives with and without labels, trials, results."""
