"""A peer that plays every dialogue and every invalid message against an agent, and says which clause it broke."""
