"""Is an answer right, and who says so?"""
