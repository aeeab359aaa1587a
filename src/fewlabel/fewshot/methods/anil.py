"""ANIL: Raghu, Raghu, Bengio and Vinyals, "Rapid learning or feature reuse?", 2020, section 4.

MAML whose inner loop adapts the head alone; the outer loop trains all layers.
"""

from __future__ import annotations

from fewlabel.fewshot.methods.maml import Maml


class Anil(Maml):
    shot_parameter = "cells.tasks and anil.queries"
    head_only = True
