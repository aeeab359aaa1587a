"""Use a trained few-shot model: a few labelled images of each class, and queries to classify."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewlabel import params
from fewlabel.errors import UserError
from fewlabel.fewshot.episodes import as_float
from fewlabel.fewshot.methods import base


def classify(
    name: str,
    settings: dict[str, Any],
    weights: dict[str, Tensor],
    images: Tensor,
    way: int,
    shot: int,
    transductive: bool = False,
) -> Tensor:
    """Logits (queries, way).

    Args:
        name, settings: of the method, as in params.yaml with the values of its budget.
        images: uint8 (way × shot + queries, channels, size, size): the labelled ones first, all of class 0 before the
            others, then the queries.
        transductive: whether the other queries count, or each is answered as if it were alone.

    Raises:
        UserError: there is no query, or the way is below two.
    """
    if way < 2 or shot < 1 or len(images) <= way * shot:
        raise UserError(f"{len(images)} images are not {way} × {shot} labelled ones and a query")
    classes = len(weights["head.weight"]) if "head.weight" in weights else way  # of the training split
    problem = base.Problem(way, shot, classes, *images.shape[1:3])
    section = params.METHODS[name](**settings)
    method = base.create(name, section, problem, torch.device("cpu"), seed=0)
    method.model.load_state_dict(weights)
    with torch.no_grad():
        embedded = method.embed(as_float(images))
        support, queries = embedded[: way * shot].unflatten(0, (way, shot)), embedded[way * shot :]
        return method.predict(support[None], queries[None, None], transductive)[0]
