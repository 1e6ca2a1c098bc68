"""What the projector is made of: reading entries, folding a batch, saying what is to be written."""
