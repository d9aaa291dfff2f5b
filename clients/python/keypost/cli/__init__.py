"""The command line ``keypost``: a thin layer over ``keypost.client``."""
