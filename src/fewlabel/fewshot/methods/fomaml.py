"""First-order MAML: Finn, Abbeel and Levine, "Model-agnostic meta-learning", 2017, section 5.2.

The outer gradient is that of the query loss at the adapted weights, as if they had not been computed from the shared
ones.
"""

from __future__ import annotations

from fewlabel.fewshot.methods.maml import Maml


class Fomaml(Maml):
    shot_parameter = "cells.tasks and fomaml.queries"
    first_order = True
