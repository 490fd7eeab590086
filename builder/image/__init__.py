"""Stages 3 and 4: from a lock to a rendered folder (`render/`), and from there to an image (`build/`)."""
