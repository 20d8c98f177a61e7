"""What is a model, and how is each engine asked?"""
