"""Clients of vaults: package indexes with every file that locks name, in a folder, on a web server or in a registry."""
