"""Which tools can a model's code call?"""
