"""What does a student learn from trajectories, and how is it trained?"""
