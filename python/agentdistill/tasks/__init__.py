"""What is a task, and where are sets of them?"""
