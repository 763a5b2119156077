"""Datasets: samples, splits by group, seeded views, readers and generated scenes. Torch-free: arrays in, arrays out."""
