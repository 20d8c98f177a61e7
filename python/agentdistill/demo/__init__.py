"""The whole paper in miniature: a generated world, a scripted teacher, three tiny students, really trained and
evaluated.

world.py makes the encyclopaedia and the tasks, teacher.py answers them, base/ holds the students before training
(pretrain.py made them), run.py goes through the steps, page.py shows the results.
"""

from agentdistill.demo.run import demo

__all__ = ["demo"]
