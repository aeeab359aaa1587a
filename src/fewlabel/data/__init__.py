"""Raw archives, prepared arrays and the stand-ins: one module per dataset, and what they share."""
