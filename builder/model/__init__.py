"""The records that the stages hand on: recipe, platform, lock, model files, audit, image, verdict, publication."""
