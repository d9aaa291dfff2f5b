"""The Certificate Authority: records which public key belongs to whom, and signs what it says."""
