"""How good is a model, is one better than another, and how does a person look at it?"""
