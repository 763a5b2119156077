"""Starting agent processes, placing them on devices, and never leaving one behind. Torch-free."""
