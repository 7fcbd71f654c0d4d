"""What methods of compression learn of a model beforehand: predictors and profiles, from texts."""
