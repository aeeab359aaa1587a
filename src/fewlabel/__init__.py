"""fewlabel: how well can a network learn from a handful of labels, and which way of getting there is best?"""

__version__ = "0.1.0"
