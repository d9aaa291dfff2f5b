"""The key directory: fast look-ups of records that the Certificate Authority (CA) signed."""
