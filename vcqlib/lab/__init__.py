"""A world whose truth is known: points in the plane, tokenized and modelled like images."""
