"""segcal: how far can the probabilities of medical segmentation networks be trusted?"""

__version__ = "0.1.0"
