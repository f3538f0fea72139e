"""What a run found, as data, and the forms people read it in."""
