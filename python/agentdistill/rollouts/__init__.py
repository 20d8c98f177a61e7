"""How does a task become a graded trajectory, and how do hundreds of them run at once?"""
