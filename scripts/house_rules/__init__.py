"""The rules of the house: what may import what, and which names are taken or unwanted."""
