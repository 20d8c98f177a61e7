"""The demo: the whole method in minutes, with a generated world, a scripted teacher and tiny students.

world.py generates the encyclopaedia and the tasks, teacher.py solves them, base/ has the students' base models (made by
pretrain.py), run.py runs the steps, and page.py shows the results.
"""

from agentdistill.demo.run import demo

__all__ = ["demo"]
