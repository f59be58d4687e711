"""Paths on this machine and in object stores, and files written whole or not at all."""
