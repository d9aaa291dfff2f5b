"""What administrators do, over the CA's internal port and by ``keypost-ca admin``."""
