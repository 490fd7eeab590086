"""The records that stages hand on: recipe, platform, lock, models, audit, image, verdict, publication."""
