"""The algorithms of a convolution, siblings behind one contract; see `convlayers.functional.plan`."""
