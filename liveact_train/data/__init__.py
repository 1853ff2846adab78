"""Procedural talking cartoon faces: the data the tiny checkpoint is trained on."""
