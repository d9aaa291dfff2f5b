"""The three services of Keypost and what they share."""
