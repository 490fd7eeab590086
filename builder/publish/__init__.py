"""Stage 6: tags on proven digests, in every registry, with the evidence beside them."""
