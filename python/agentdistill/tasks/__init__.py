"""What is a task, and how are task sets loaded?"""
