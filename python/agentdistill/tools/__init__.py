"""What can a model's code call besides Python?"""
