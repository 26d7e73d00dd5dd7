"""Networks, losses and the training loop; needs torch, numpy and scipy only."""
