"""How good is a model, is one better than another, and how are results shown?"""
