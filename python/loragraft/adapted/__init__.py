"""The tensors of a base with the changes of an adapter made, part by part."""
