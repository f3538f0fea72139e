"""Both models run on a few texts: what they make of them, at the places that correspond."""
