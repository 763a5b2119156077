"""Training: the one visible loop, losses, metrics, optimizers and checkpoints, for any network and any source of batches.

Knows nothing of agents, families' construction or where soft targets come from.
"""
