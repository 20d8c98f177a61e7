"""Results: the accuracy of a model, comparisons of models, and reports."""
