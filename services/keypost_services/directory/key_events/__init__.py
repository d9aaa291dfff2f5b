"""Key events: watched at the CA, acted upon, re-served to delivery."""
