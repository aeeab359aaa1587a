"""Few-shot methods, one algorithm a file; `fewlabel.fewshot.methods.base` says what one has to offer."""
