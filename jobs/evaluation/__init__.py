"""Figures and slices by which training and monitoring judge a model alike."""
