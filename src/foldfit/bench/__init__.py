"""Experiments: tables that are made again by one command."""
