"""Hooks: publish what becomes of the tasks of somebody else's framework, each with one call to install.

A module for each framework, named like it, imports that framework when it is itself imported, and nothing else does.
"""
