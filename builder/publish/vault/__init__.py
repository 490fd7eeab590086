"""Vaults: static package indexes with every file that locks name: writing, checking, copies in registries."""
