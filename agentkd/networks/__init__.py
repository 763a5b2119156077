"""Networks: plain torch, built from an ``Architecture``.

Owns the families, their settings and search spaces, building, counting, cost and the import of weights. Does not own training
losses (``agentkd.training``) or anything about agents. Importing this package does not import torch; building does.
"""
