"""Few-shot methods, one algorithm a file; `fewlabel.methods.base` says what one has to offer."""
