"""The dynamic graph: nodes of data, grad modes, versions, and the engine that runs backward."""
