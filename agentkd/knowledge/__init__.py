"""What is taught: contracts, objectives in two halves, and safetensors as the one form of tensors on wire and disk."""
