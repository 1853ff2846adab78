"""What the machine code would take on a chip that is not here: tables and explanations of `compiled.predict`."""
