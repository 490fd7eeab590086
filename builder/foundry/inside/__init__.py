"""Programs that run inside of sandboxes: standard library only, for any Python from 3.9 on."""
