"""What to ask of the database: each operation as text, parameters and the shape of its rows. No I/O."""
